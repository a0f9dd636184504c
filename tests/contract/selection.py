"""Which contract tests with GRE go to the VM; see conftest."""

from __future__ import annotations

import pytest

COLLECTED = pytest.StashKey[frozenset[str]]()
"""Names of all tests of this folder that pytest found, before any was deselected."""
EVERYTHING, ALL = "WCCPD_CONTRACT_GRE", "all"
"""Environment variable, and its value: every test goes there."""
WHOLLY = frozenset({"test_carrying.py"})
"""Files of which every test with GRE goes there."""
IN_THE_VM = frozenset(
    {
        # exact headers
        "test_assignment.py::test_a_packet_goes_to_the_owner_of_its_bucket[netlink-gre-web-cache-0100]",
        "test_assignment.py::test_a_packet_goes_to_the_owner_of_its_bucket[netlink-gre-70-1111]",
        "test_assignment.py::test_a_bucket_with_the_a_flag_goes_by_the_alternate_hash_whose_own_flag_is_ignored"
        "[netlink-gre-few]",
        "test_assignment.py::test_mask_sets_are_asked_in_order_and_the_first_equal_value_decides[netlink-gre]",
        "test_affinity.py::test_later_packets_have_the_header_of_the_first_also_that_of_an_alternate_bucket"
        "[netlink-gre]",
        # flows
        "test_affinity.py::test_a_flow_stays_with_its_cache_and_new_ones_go_by_the_buckets[netlink-gre-6]",
        "test_affinity.py::test_a_flow_of_a_lost_cache_moves_and_no_other_does[netlink-gre]",
        "test_affinity.py::test_a_connection_of_a_lost_cache_is_reset_if_so_wished[netlink-gre-closed]",
        "test_affinity.py::test_a_flow_stays_with_a_cache_that_changes_its_method[netlink-gre-alone-gre to l2]",
        "test_affinity.py::test_a_flow_stays_with_a_cache_that_changes_its_method"
        "[netlink-gre-beside another service-l2 to gre]",
        "test_affinity.py::test_the_two_services_of_a_pair_send_both_directions_of_a_flow_to_one_cache"
        "[netlink-gre]",
        "test_affinity.py::test_an_icmp_error_about_a_redirected_flow_goes_to_its_cache[netlink-gre]",
        # restart and removal
        "test_lease.py::test_when_the_lease_runs_out_the_mode_decides_about_pinned_flows_too"
        "[netlink-gre-closed-fate1]",
        "test_lease.py::test_a_restart_within_the_lease_changes_nothing_and_is_not_felt[netlink-gre]",
        "test_lease.py::test_removal_takes_everything_away[netlink-gre]",
        "test_lease.py::test_services_can_be_kept_closed_behind_a_daemon_that_stops[netlink-gre-closed-fate1]",
        # others, refusals, modes
        "test_ownership.py::test_what_is_not_ours_survives_beside_it_and_after_it[netlink-gre]",
        "test_ownership.py::test_marks_of_others_on_packets_and_connections_survive[netlink-gre]",
        "test_policy.py::test_an_owner_whose_path_is_missing_is_nobody[netlink-gre-open-of_tcp0-of_others0]",
        "test_policy.py::test_an_owner_whose_path_is_missing_is_nobody[netlink-gre-reject-of_tcp2-of_others2]",
        "test_policy.py::test_a_path_that_is_refused_costs_its_own_cache_only[netlink-gre]",
    }
)


def goes_to_the_vm(nodeid: str) -> bool:
    """Whether a test with GRE is run where that takes the VM."""
    name = name_of(nodeid)
    return name in IN_THE_VM or file_of(name) in WHOLLY


def name_of(nodeid: str) -> str:
    """A test's name as it is spelt here."""
    path, _, rest = nodeid.partition("::")
    return f"{path.rpartition('/')[2]}::{rest}"


def file_of(name: str) -> str:
    """Its file."""
    return name.partition("::")[0]
