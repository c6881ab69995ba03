-- Forget a sandbox that Docker no longer has, and its tenant's claim on it.
-- KEYS[1] sandboxes (hash id -> record)  KEYS[2] tenants (hash tenant -> id)
-- ARGV[1] id
-- Returns 1 forgotten | 0 was not there
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
local tenant = cjson.decode(text).tenant
if type(tenant) == 'string' and redis.call('HGET', KEYS[2], tenant) == ARGV[1] then redis.call('HDEL', KEYS[2], tenant) end
return redis.call('HDEL', KEYS[1], ARGV[1])
