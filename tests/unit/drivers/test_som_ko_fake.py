"""The fake of som.ko keeps what the agent relies on."""

from fakes import som_ko, som_ko_contract


def test_the_fake_keeps_the_contract() -> None:
    som_ko_contract.check(som_ko.SomKo(), 4 << 30)
