-- Record a sandbox again that Redis lost and a gateway is still connected to, unless somebody else has its seat by now.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] id  ARGV[2] record  ARGV[3] seat, or '' for one that drains
-- Returns 1 restored | 0 it is recorded | -1 its seat is taken
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
if ARGV[3] ~= '' then
  local holder = redis.call('HGET', KEYS[2], ARGV[3])
  if holder and holder ~= ARGV[1] then return -1 end
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
