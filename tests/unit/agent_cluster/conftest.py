from fakes.fixtures import client, clock, server

__all__ = ["client", "clock", "server"]
