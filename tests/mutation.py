"""Damage for files of strangers: JSON nodes replaced, taken away, copied or renamed; bytes turned, cut or doubled."""

import json

NASTY = (
    0, -1, 1, 3, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, float("nan"), float("inf"), True, None, "",
    "SEMU", "LORA", "x" * 5000, "../../etc/passwd", "/etc/hostname", "first", "(a+)+$", "(", "\x1b[2J", "\ud800", "a",
    [], {}, [0], [1, 2, 3, 4], [[[]]], {"a": 1}, {"first": 2}, ["first"], [-1, 5], [2**40, 2**40],
    "F64", "I64", "F8_E4M3", "C64",
)  # fmt: skip


def nodes(value, found=None):
    """(container, key) of everything inside a JSON value."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        nodes(inner, found)
    return found


def mutate_json(rng, text):
    """One to three nodes replaced by something nasty, taken away, copied or renamed."""
    value = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(nodes(value) or [([0], 0)])
        way = rng.randrange(4)
        if way == 0:
            del container[key]
        elif way == 1 and isinstance(container, dict):
            container[str(rng.choice(NASTY))[:80]] = container.pop(key)
        elif way == 2:
            container[key] = container[rng.choice(list(container))] if isinstance(container, dict) else container[0]
        else:
            container[key] = rng.choice(NASTY)
    return json.dumps(value)


def mutate_bytes(rng, data):
    """Bits turned, a part cut out, doubled, zeroed or overwritten, or the end missing."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        way = rng.randrange(6)
        if way == 0 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[a : min(b, a + 40)]
        elif way == 2:
            data[a:a] = data[a : min(b, a + 40)]
        elif way == 3:
            data[a:b] = bytes(b - a)
        elif way == 4:
            data[a : a + 8] = rng.randbytes(8)
        else:
            del data[b:]
    return bytes(data)
