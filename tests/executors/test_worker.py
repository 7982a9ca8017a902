from __future__ import annotations

import pickle

from milsurv.errors import CohortError
from milsurv.executors.worker import Done, Failed, Reported, packed, sendable


class TwoPartError(Exception):
    """Cannot be unpickled: pickle gives it its one message."""

    def __init__(self, one: str, two: str):
        super().__init__(one + two)


def _sent(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        failed = pickle.loads(packed(Failed(sendable(caught))))
    assert isinstance(failed.error, BaseException)
    return failed.error


def test_messages_arrive_as_they_were() -> None:
    for message in (Reported(3, {"event": "epoch", "loss": 0.5}), Done(2, [1, "two"])):
        assert pickle.loads(packed(message)) == message


def test_a_result_that_cannot_be_sent_is_an_error_that_says_so() -> None:
    failed = pickle.loads(packed(Done(0, lambda: None)))
    assert isinstance(failed, Failed)
    assert "pickle" in str(failed.error) or "local object" in str(failed.error)


def test_errors_arrive_with_the_place_where_they_were_raised() -> None:
    error = _sent(TwoPartError("this ", "and that"))
    assert "TwoPartError: this and that" in str(error)
    assert "in _sent" in error.__notes__[0]
    assert isinstance(_sent(KeyError("x")), KeyError)


def test_what_the_user_can_mend_arrives_as_it_was() -> None:
    error = _sent(CohortError(["one", "two"]))
    assert isinstance(error, CohortError)
    assert error.problems == ("one", "two")
    assert not hasattr(error, "__notes__")
