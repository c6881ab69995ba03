-- Give a seat its sandbox: the one it has, or the first candidate that still belongs to nobody. For ever.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] seat  ARGV[2] tenant  ARGV[3] gateway  ARGV[4..] candidate ids, best first
-- Returns {'existing', id} | {'starting', id} | {'adopted', id} | {'resumed', id}: it must be thawed | {'none', ''}
local function decode(id)
  local text = redis.call('HGET', KEYS[1], id)
  return text and cjson.decode(text)
end
local function save(record)
  record.generation = record.generation + 1
  redis.call('HSET', KEYS[1], record.id, cjson.encode(record))
end
local own = redis.call('HGET', KEYS[2], ARGV[1])
if own then
  local record = decode(own)
  if record and record.state == 'warm' then
    -- A fresh table: cjson would write an emptied array as an object.
    local users = { ARGV[3] }
    for _, user in ipairs(record.users) do if user ~= ARGV[3] then users[#users + 1] = user end end
    record.users = users
    -- Written even when nothing changes: whoever was about to give it up decided on an older generation.
    save(record)
    return { 'existing', own }
  end
  if record and record.state == 'paused' then
    record.state = 'warm'
    record.pausedAt = nil
    record.users = { ARGV[3] }
    save(record)
    return { 'resumed', own }
  end
  if record and record.state == 'starting' then return { 'starting', own } end
  -- Draining or gone: a successor may be made; the old one loses its seat, not its end.
  redis.call('HDEL', KEYS[2], ARGV[1])
end
for i = 4, #ARGV do
  local record = decode(ARGV[i])
  if record and record.state == 'prewarmed' then
    record.state = 'warm'
    record.tenant = ARGV[2]
    record.seat = ARGV[1]
    record.users = { ARGV[3] }
    save(record)
    redis.call('HSET', KEYS[2], ARGV[1], record.id)
    return { 'adopted', record.id }
  end
end
return { 'none', '' }
