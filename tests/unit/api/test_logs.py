import logging

from som_api import logs


def line(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "som", **extra})
    return logs.KeyValues("%(levelname)s %(message)s").format(record)


def test_extras_follow_the_message_in_their_order() -> None:
    assert (
        line("node ordered", pools="a: 1Gi", node="n")
        == "INFO node ordered node='n' pools='a: 1Gi'"
    )


def test_a_strangers_text_stays_on_one_line() -> None:
    assert line("refused", error="one\ntwo") == r"INFO refused error='one\ntwo'"
    assert line("one\nERROR two\u202e\0: é") == r"INFO one\nERROR two\u202e\x00: é"


def test_a_traceback_follows_the_extras() -> None:
    assert line("failed", node="n", exc_text="Traceback") == "INFO failed node='n'\nTraceback"
