-- Forget a sandbox that Docker no longer has, and its claim on a seat.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] id
-- Returns 1 forgotten | 0 was not there
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
local seat = cjson.decode(text).seat
if type(seat) == 'string' and redis.call('HGET', KEYS[2], seat) == ARGV[1] then redis.call('HDEL', KEYS[2], seat) end
return redis.call('HDEL', KEYS[1], ARGV[1])
