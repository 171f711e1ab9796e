"""Rate limit per client."""

from cdtl_core.deploy.rate import RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_an_even_rate_and_the_wait_is_told() -> None:
    clock = Clock()
    limit = RateLimit(12, clock=clock)  # one in 5 s, four at once
    assert [limit.wait("a") for _ in range(5)] == [0, 0, 0, 0, 5]
    clock.now += 4
    assert limit.wait("a") == 1
    clock.now += 1
    assert [limit.wait("a") for _ in range(2)] == [0, 5]
    assert limit.wait("b") == 0


def test_who_waits_as_told_may_pass() -> None:
    clock = Clock()
    limit = RateLimit(7, clock=clock)
    for _ in range(50):
        if wait := limit.wait("a"):
            clock.now += wait
            assert limit.wait("a") == 0


def test_no_client_is_remembered_for_long() -> None:
    clock = Clock()
    limit = RateLimit(60, clock=clock)
    for number in range(1000):
        limit.wait(str(number))
    clock.now += 120
    limit.wait("a")
    assert len(limit._due) == 1
