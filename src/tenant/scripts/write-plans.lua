-- Change the plans or who has them, whole or not at all, and count the change.
-- KEYS[1] version  KEYS[2] plans (hash name -> plan)  KEYS[3] holders (hash tenant -> name)
-- ARGV[1] put | remove | assign | release  ARGV[2] the plan's name, or the tenant  ARGV[3] the plan, or its name
-- Returns the new version | -1 tenants have the plan | -2 there is no such plan
if ARGV[1] == 'put' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
elseif ARGV[1] == 'remove' then
  for _, name in ipairs(redis.call('HVALS', KEYS[3])) do
    if name == ARGV[2] then return -1 end
  end
  redis.call('HDEL', KEYS[2], ARGV[2])
elseif ARGV[1] == 'assign' then
  if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then return -2 end
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
else
  redis.call('HDEL', KEYS[3], ARGV[2])
end
return redis.call('INCR', KEYS[1])
