"""Two thousand damaged and odd files of every kind through the pack's own doors; `tests/fuzz` makes as many as one likes."""

from collections import Counter

from fuzz.doors import KINDS, file_of
from fuzz.work import fuzz


def test_whatever_a_file_holds_it_is_read_or_refused_in_one_sentence():
    counts, faults = fuzz(range(2000))
    assert not faults
    assert counts.total() == 2000
    assert all(counts[f"{kind} {how}"] > 20 for kind in KINDS for how in ("read", "refused"))


def test_a_seed_gives_the_same_file_every_time():
    """But for addresses in memory, which torch's older form calls its storages by."""
    for seed in range(30):
        (*kind, first), (*again, second) = file_of(seed), file_of(seed)
        assert kind == again and len(first) == len(second)
        assert sum(a != b for a, b in zip(first, second, strict=True)) < 100
    assert len({file_of(seed)[2] for seed in range(100)}) > 80
    assert Counter(file_of(seed)[0] for seed in range(10)) == Counter({kind: 2 for kind in KINDS})
