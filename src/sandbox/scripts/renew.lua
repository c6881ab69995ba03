-- Put a fresh sandbox on a seat; the old one takes nothing new, and its users finish what they have there.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] seat  ARGV[2] id of the old one  ARGV[3] gateway  ARGV[4] cause  ARGV[5] Unix ms  ARGV[6..] candidate ids, best first
-- Returns {'renewed', id of the new one} | {'none', ''}: no candidate is free | {'lost', ''}: the seat is not the old one's any more
local function save(record)
  record.generation = record.generation + 1
  redis.call('HSET', KEYS[1], record.id, cjson.encode(record))
end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return { 'lost', '' } end
local text = redis.call('HGET', KEYS[1], ARGV[2])
local old = text and cjson.decode(text)
if not old or old.state ~= 'warm' then return { 'lost', '' } end
for i = 6, #ARGV do
  local found = redis.call('HGET', KEYS[1], ARGV[i])
  local fresh = found and cjson.decode(found)
  if fresh and fresh.state == 'prewarmed' then
    fresh.state = 'warm'
    fresh.tenant = old.tenant
    fresh.seat = ARGV[1]
    fresh.users = { ARGV[3] }
    old.state = 'draining'
    old.seat = nil
    old.cause = ARGV[4]
    old.since = tonumber(ARGV[5])
    save(fresh)
    save(old)
    redis.call('HSET', KEYS[2], ARGV[1], fresh.id)
    return { 'renewed', fresh.id }
  end
end
return { 'none', '' }
