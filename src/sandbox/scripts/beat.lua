-- A gateway says that it lives, and learns who else does. Redis's own clock judges, so that nobody's may be wrong.
-- KEYS[1] gateways (sorted set id -> last beat, ms)
-- ARGV[1] gateway  ARGV[2] silence after which a gateway counts as dead (ms)
-- Returns the ids of the living
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
return redis.call('ZRANGE', KEYS[1], 0, -1)
