-- Put back what Redis lost, unless somebody else has or it holds something newer.
-- KEYS[1] version  KEYS[2] plans (hash name -> plan)  KEYS[3] holders (hash tenant -> name)
-- ARGV[1] version  ARGV[2] how many plans  ARGV[3..] name, plan …, tenant, name …
-- Returns 1 restored | 0 not needed
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
local first = 3
local last = 2 + 2 * tonumber(ARGV[2])
for i = first, #ARGV, 2 do
  redis.call('HSET', i <= last and KEYS[2] or KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
