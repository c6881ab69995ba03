-- Replace a sandbox's record, but only if nobody replaced it since we read it.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] id  ARGV[2] generation we read  ARGV[3] next record  ARGV[4] seat that it loses, or ''
-- Returns 1 swapped | 0 stale | -1 gone
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return -1 end
if cjson.decode(text).generation ~= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] ~= '' and redis.call('HGET', KEYS[2], ARGV[4]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[4]) end
return 1
