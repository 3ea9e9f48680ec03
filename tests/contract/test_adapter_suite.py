"""The contract of adapters is held to itself: a good one passes, and each promise that is broken is seen, by name."""

from __future__ import annotations

import broken_adapters as broken
import pytest
from broken_adapters import Keyed, KeyedTwin, Marked, Small, SmallTwin

from rushes.adapters.base import Failed
from rushes.testing.adapters import AdapterContract
from rushes.testing.wires import Pair


class TestSmall(AdapterContract):
    @pytest.fixture
    def pair(self) -> Pair:
        return Pair(Small(), SmallTwin)


class TestMarked(AdapterContract):
    @pytest.fixture
    def pair(self) -> Pair:
        return Pair(Marked(), SmallTwin)


class TestKeyed(AdapterContract):
    @pytest.fixture
    def pair(self) -> Pair:
        return Pair(Keyed(), KeyedTwin)


BROKEN: dict[type[Small], str] = {
    broken.PaysTwice: "test_a_submit_is_one_paid_request_and_nothing_after_it",
    broken.AsksAfterwards: "test_a_submit_is_one_paid_request_and_nothing_after_it",
    broken.NeverTheSame: "test_the_same_order_is_the_same_bytes",
    broken.CertainOfErrors: "test_a_server_error_in_the_providers_own_words_is_in_doubt_too",
    broken.CertainOfPages: "test_a_gateways_page_leaves_a_send_in_doubt",
    broken.TellsKeys: "test_no_secret_is_told_though_the_provider_tells_it",
    broken.EndsOnUnknownWords: "test_unknown_status_words_wait",
    broken.FindsAnothers: "test_a_look_finds_exactly_the_job_of_its_key",
    broken.FindsNothingOnErrors: "test_a_broken_answer_to_a_look_never_says_that_nothing_is_there",
    broken.CallsItB: "test_the_class_of_doubt_holds_when_the_answer_is_lost",
    broken.DropsAnOption: "test_each_declared_wish_is_sent",
    broken.DropsNewOptions: "test_an_option_that_settings_add_goes_out_or_is_refused",
    broken.DropsAField: "test_each_declared_wish_is_sent",
    broken.TooCheap: "test_a_job_is_charged_once_and_no_more_than_was_estimated",
    broken.OffersTooMuch: "test_each_declared_value_is_taken",
    broken.TrustsIds: "test_an_id_that_could_lead_elsewhere_is_refused",
    broken.StrictAboutFields: "test_unknown_fields_of_answers_are_ignored",
    broken.TakesOneOfTwo: "test_a_mark_that_two_jobs_carry_is_no_evidence",
    broken.CallsItA: "test_the_class_of_doubt_holds_when_the_answer_is_lost",
    broken.VanishesOnPages: "test_a_broken_answer_to_a_poll_ends_no_job",
    broken.FailsOn404: "test_a_job_that_is_not_known_yet_is_waited_for",
    broken.Speechless: "test_a_wrong_key_is_refused_for_certain",
    broken.Chatty: "test_no_log_line_holds_a_secret",
    broken.CannotCancel: "test_a_cancel_does_what_is_declared",
}
MORE: dict[str, dict[str, str]] = {"test_the_class_of_doubt_holds_when_the_answer_is_lost": {"point": "after"}}


@pytest.mark.parametrize("adapter", BROKEN)
def test_each_broken_promise_is_seen_by_the_check_that_names_it(adapter: type[Small]) -> None:
    name = BROKEN[adapter]
    check = getattr(AdapterContract(), name)
    good = Marked() if issubclass(adapter, Marked) else Small()
    check(Pair(good, SmallTwin), **MORE.get(name, {}))
    with pytest.raises((AssertionError, Failed)):
        check(Pair(adapter(), SmallTwin), **MORE.get(name, {}))
