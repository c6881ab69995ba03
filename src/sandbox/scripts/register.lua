-- Claim the right to make a sandbox: record it as starting, unless its seat is taken or the deployment is full.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] seats (hash seat -> id)
-- ARGV[1] id  ARGV[2] record  ARGV[3] seat or ''  ARGV[4] most sandboxes
-- Returns 1 registered | 0 the seat is taken | -1 full
if ARGV[3] ~= '' and redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return 0 end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], ARGV[3], ARGV[1]) end
return 1
