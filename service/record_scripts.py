"""What Redis does as one step with the records of the live catalogue, in Lua; see :mod:`service.records`.

KEYS: the records (a hash), the changes (a stream), the lineage.
A record is "<version> <milliseconds> <content>".
"""

LOST = b"lost"  # an outcome: Redis does not have what the replica has read there

# ARGV: id, content ("" deletes), expected version ("" any, "*" there is one, "-" there is none), the
# bundle's own content ("" none), changes kept, the lineage and the version that the replica has read, and
# the lineage that it gives where there is none. Returns the outcome, and the item's version and milliseconds.
WRITE = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
last = last and tonumber(string.match(last[1], '^%d+')) or 0
local lineage = redis.call('GET', KEYS[3]) or ''
local known = lineage == ARGV[6] or lineage == ARGV[8]
if not known or last < tonumber(ARGV[7]) then return {'lost', '0', '0'} end
local record = redis.call('HGET', KEYS[1], ARGV[1])
local version, ms, content = '0', '0', ARGV[4]
if record then version, ms, content = string.match(record, '^(%d+) (%d+) (.*)$') end
local there = content ~= ''
if ARGV[3] == '-' and there or ARGV[3] == '*' and not there
    or string.match(ARGV[3], '%d') and not (there and ARGV[3] == version) then
  return {'conflict', version, ms}
end
if content == ARGV[2] then return {there and 'same' or 'absent', version, ms} end
local next = string.format('%d', last + 1)
local now = redis.call('TIME')
ms = string.format('%d%03d', now[1], math.floor(now[2] / 1000))
if lineage == '' then redis.call('SET', KEYS[3], ARGV[8]) end
redis.call('HSET', KEYS[1], ARGV[1], next .. ' ' .. ms .. ' ' .. ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], next .. '-' .. ms, 'id', ARGV[1])
return {ARGV[2] == '' and 'deleted' or there and 'changed' or 'created', next, ms}
"""

# ARGV: lineage, id, version, milliseconds, content, changes kept. Where another change has got the version
# meanwhile, the record gets the next one.
PUT_BACK = """
local lineage = redis.call('GET', KEYS[3])
if lineage and lineage ~= ARGV[1] then return end
redis.call('SET', KEYS[3], ARGV[1])
local record = redis.call('HGET', KEYS[1], ARGV[2])
local version = tonumber(ARGV[3])
if record and tonumber(string.match(record, '^%d+')) >= version then return end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
version = math.max(version, last and string.match(last[1], '^%d+') + 1 or 1)
version = string.format('%d', version)
redis.call('HSET', KEYS[1], ARGV[2], version .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], version .. '-' .. ARGV[4], 'id', ARGV[2])
"""
