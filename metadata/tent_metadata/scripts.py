"""What runs inside Redis: compare-and-set needs the comparison where the value is.

Every script touches keys of one bucket, all of them declared, so Redis Cluster runs it; on one server a call may carry
keys of any bucket. Each may run twice with the same outcome, because a lost reply is answered by sending it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tent_metadata import resp
from tent_metadata.faults import Refusal
from tent_metadata.router import Router

__all__ = [
    "MAX_RECORD", "PRUNE_NODE", "PUBLISH", "PUT_NODE", "PUT_SEGMENT", "RAISE", "REMOVE_NODE", "REPLACE",
    "UNPUBLISH", "Script", "run",
]  # fmt: skip

MAX_RECORD = 4096  # bytes of a page record; a longer value under a page's key is not ours


class Script:
    """A Lua script, sent by its digest; in full where the server does not know it (restarted, failed over)."""

    def __init__(self, body: str) -> None:
        text = body.replace("MAX_RECORD", str(MAX_RECORD)).encode()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self._by_digest = resp.bulk(b"EVALSHA") + resp.bulk(digest)
        self._in_full = resp.bulk(b"EVAL") + resp.bulk(text)

    def packed(self, keys: int, arguments: int, words: bytes, *, in_full: bool) -> bytes:
        """The command; ``words``: the keys and then the arguments, packed."""
        head = self._in_full if in_full else self._by_digest
        return b"*%d\r\n%b%b%b" % (3 + keys + arguments, head, resp.bulk(b"%d" % keys), words)


def run(
    router: Router,
    script: Script,
    calls: Sequence[tuple[int, int, int, bytes]],
    deadline: float,
    limit: int,
) -> list[Any]:
    """Runs ``script`` for each ``(bucket, keys, arguments, packed words)``, all at once; one reply each."""
    commands = [(bucket, script.packed(k, a, words, in_full=False)) for bucket, k, a, words in calls]
    replies = router.call(commands, deadline, limit)
    unknown = [i for i, reply in enumerate(replies) if type(reply) is Refusal and reply.kind == "no_script"]
    if unknown:
        again = [calls[i] for i in unknown]
        commands = [(bucket, script.packed(k, a, words, in_full=True)) for bucket, k, a, words in again]
        for i, reply in zip(unknown, router.call(commands, deadline, limit), strict=True):
            replies[i] = reply
    return replies


# Shared by the two below: the generation at KEYS[1] as a number, -1 for what is none, raised to `want`.
_GENERATION = """
local function generation_at_least(key, want)
  local raw = redis.pcall('GET', key)
  local now = 0
  if type(raw) == 'string' then
    now = -1
    if #raw <= 15 and string.find(raw, '^%d+$') then now = tonumber(raw) end
  elseif type(raw) == 'table' then
    now = -1
  end
  if now < want then
    redis.call('SET', key, string.format('%d', want))
    now = want
  end
  return now
end
"""

# KEYS: generation, pages…  ARGV: the publisher's generation, records…
# -> {generation, per page: 1 stored or already so | the record of an earlier publisher | 0 not stored; [error]}
# A server that lost the generation learns it here; a publisher that missed a clear stores nothing.
PUBLISH = Script(
    _GENERATION
    + """
local want = tonumber(ARGV[1])
local out = {generation_at_least(KEYS[1], want)}
if out[1] > want then return out end
for i = 2, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  if type(held) == 'string' and #held > 0 and #held <= MAX_RECORD then
    out[i] = held == ARGV[i] and 1 or held
  else
    local done = redis.pcall('SET', KEYS[i], ARGV[i])
    if type(done) == 'table' and done.err then
      for j = i, #KEYS do out[j] = 0 end
      out[#KEYS + 1] = done.err
      return out
    end
    out[i] = 1
  end
end
return out
"""
)

# KEYS: generations…  ARGV: the generation that each must reach  -> the smallest of them afterwards
RAISE = Script(
    _GENERATION
    + """
local want, least = tonumber(ARGV[1]), nil
for i = 1, #KEYS do
  local now = generation_at_least(KEYS[i], want)
  if not least or now < least then least = now end
end
return least
"""
)

# KEYS: pages…  ARGV: old record, new record, old record, …  -> per page 1 replaced (or already so) | 0
REPLACE = Script("""
local out = {}
for i = 1, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  out[i] = 0
  if held == ARGV[2 * i - 1] then
    redis.call('SET', KEYS[i], ARGV[2 * i])
    out[i] = 1
  elseif held == ARGV[2 * i] then
    out[i] = 1
  end
end
return out
""")

# KEYS: pages…  ARGV: records…  -> how many were still there as given, and are gone
UNPUBLISH = Script("""
local gone = 0
for i = 1, #KEYS do
  if redis.pcall('GET', KEYS[i]) == ARGV[i] then gone = gone + redis.call('DEL', KEYS[i]) end
end
return gone
""")

# KEYS: node, its segments, index of names  ARGV: incarnation, descriptor, ttl ms, name
# -> -1 held by the caller now | ms for which another incarnation still holds the name
# A record without a TTL is not of our making, and holds nothing.
PUT_NODE = Script("""
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' and #held >= 16 and string.sub(held, 1, 16) ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 then return left end
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
local added = redis.pcall('SADD', KEYS[3], ARGV[4])
if type(added) == 'table' then
  redis.call('DEL', KEYS[3])
  redis.call('SADD', KEYS[3], ARGV[4])
end
if redis.pcall('HGET', KEYS[2], '') == ARGV[1] then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
else
  redis.call('DEL', KEYS[2])
end
return -1
""")

# KEYS: node, its segments  ARGV: incarnation, segment's name, record ('' removes)
# -> 1 done | 0 the node's record is gone or another's
PUT_SEGMENT = Script("""
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.sub(held, 1, 16) ~= ARGV[1] then return 0 end
if redis.pcall('HGET', KEYS[2], '') ~= ARGV[1] then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], '', ARGV[1])
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
redis.call('PEXPIRE', KEYS[2], math.max(1, redis.call('PTTL', KEYS[1])))
return 1
""")

# KEYS: node, its segments, index  ARGV: incarnation, name  -> 1 removed | 0 another's, or gone
REMOVE_NODE = Script("""
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.sub(held, 1, 16) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.pcall('SREM', KEYS[3], ARGV[2])
return 1
""")

# KEYS: node, index  ARGV: name  -> forgets a name whose record has expired
PRUNE_NODE = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.pcall('SREM', KEYS[2], ARGV[1]) end
return 0
""")
