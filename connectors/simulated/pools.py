"""Pools of realistic values (names, addresses, user agents) from Faker.

Faker takes 20 to 60 µs per value, a hundred times as long as the rest of a record, so each field draws from
about a thousand values generated once. The pools depend only on Faker's release: every run, and every part of
one, draws from the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faker.generator import Generator

POOL_SIZE = 1000

_SEED = 20_240_229


class ReadablePools:
    """Lists of `size` values each, built on first use in 10 to 60 ms.

    Only the English (US) providers in use are loaded, without Faker's proxy and weighting, which reduces
    start-up to a fifth and the time per value to a tenth.
    """

    def __init__(self, size: int = POOL_SIZE) -> None:
        self.size = size
        self._generator: Generator | None = None
        self._made: dict[str, list[str]] = {}

    def ip_addresses(self) -> list[str]:
        """Public IPv4 addresses."""
        return self._pool("ip", lambda fake: fake.format("ipv4_public"))

    def names(self) -> list[str]:
        """First and last names of people."""
        return self._pool("name", lambda fake: fake.format("first_name") + " " + fake.format("last_name"))

    def urls(self) -> list[str]:
        """Absolute URLs with a path."""
        return self._pool(
            "url", lambda fake: f"https://{fake.format('domain_name')}/{fake.format('uri_path')}"
        )

    def user_agents(self) -> list[str]:
        """Browsers' `User-Agent` headers."""
        # Not Faker's `user_agent`: for Firefox it draws a build date up to today, so the pool would change
        # every day.
        kinds = ("chrome", "safari", "opera")
        return self._pool("user_agent", lambda fake: fake.format(fake.random.choice(kinds)))

    def user_names(self) -> list[str]:
        """Log-in names, lower case."""
        return self._pool("user_name", lambda fake: fake.format("user_name"))

    def words(self) -> list[str]:
        """Single lower-case words."""
        return self._pool("word", lambda fake: fake.format("word"))

    def _pool(self, name: str, make: Callable[[Generator], str]) -> list[str]:
        if name not in self._made:
            fake = self._faker()
            # Seeded per pool, so that no pool depends on others generated before it.
            fake.seed_instance(f"{_SEED}/{name}")
            self._made[name] = [make(fake) for _ in range(self.size)]
        return self._made[name]

    def _faker(self) -> Generator:
        if self._generator is None:
            # Here and not above: it takes 0.1 s, and most commands generate nothing. The package itself comes
            # first: a thread that finds it half imported by another waits for it then, and holds nothing.
            # Further in, each would wait for what the other holds, which Python ends with a deadlock error.
            import faker  # noqa: F401
            from faker.generator import Generator
            from faker.providers.company.en_US import Provider as Company
            from faker.providers.internet.en_US import Provider as Internet
            from faker.providers.lorem.en_US import Provider as Lorem
            from faker.providers.person.en_US import Provider as Person
            from faker.providers.user_agent import Provider as UserAgent

            self._generator = Generator()
            for provider in (Lorem, Person, Company, Internet, UserAgent):
                self._generator.add_provider(provider)
        return self._generator
