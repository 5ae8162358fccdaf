//! `nvme-agent report` against an API server: the one of this crate, and a real kube-apiserver where KUBEBUILDER_ASSETS names
//! a directory with it and etcd. Both runs share every assertion that injects no fault.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

#[allow(dead_code)] // much of it is for the agent's own tests
#[path = "../../../agent/tests/support/mod.rs"]
mod support;

mod doctor;
mod faults;
mod node;
mod plugins;
mod proxies;
mod ran;
mod reports;
mod table;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use lab::apiserver::Server;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::real::ASSETS;

/// A cluster for all tests that disturb nobody.
fn test_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::test(Server::start().unwrap()).unwrap())
}

/// Says so where it is read: cargo swallows what a test that passes prints with `println!`.
fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// Makes a test of each case, and the list that the real server gets.
macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        const CASES: &[(&str, fn(&Cluster))] = &[$((stringify!($case), $module::$case)),*];

        mod on_the_test_server {
            $(#[test]
            fn $case() {
                crate::$module::$case(crate::test_cluster());
            })*
        }
    };
}

cases! {
    table::own_labels_and_annotations_by_either_patch,
    table::a_patch_that_changes_nothing_keeps_the_resource_version,
    table::an_apply_is_merged_and_keeps_the_resource_version_where_nothing_changes,
    table::a_null_takes_a_label_away,
    table::reserved_labels_are_403,
    table::a_value_with_a_space_is_422,
    table::taints_are_403_with_and_without_a_label,
    table::another_node_is_403_and_one_that_does_not_exist_404,
    table::conditions_merge_by_type_in_a_strategic_patch,
    table::conditions_are_replaced_by_a_merge_patch,
    table::metadata_may_go_with_the_status_and_spec_stays,
    table::a_stale_resource_version_is_409,
    table::another_uid_is_422_and_the_own_changes_nothing,
    table::only_the_own_node_can_be_read,
    table::the_own_node_can_be_watched,
    table::a_bad_token_is_401_and_no_credentials_403,
    table::a_good_token_is_the_node,
    table::events_may_be_made_but_not_read,
    table::http1_is_spoken_too,
    table::an_unknown_patch_type_is_415,
    reports::a_report_writes_labels_annotation_and_condition_beside_what_others_wrote,
    reports::a_second_report_sends_no_patch,
    reports::status_says_what_the_node_says_and_whether_that_is_so,
    reports::an_unchanged_tick_asks_nobody_and_starts_nothing,
    reports::a_node_without_drives_has_nothing_to_tell_at_a_tick,
    reports::what_the_node_was_told_before_a_boot_is_taken_back_in_it,
    reports::what_happens_to_the_filesystem_is_on_the_node_with_the_next_tick_and_back,
    reports::keys_that_were_renamed_take_the_place_of_the_former_ones,
    reports::a_configuration_that_cannot_be_read_any_more_does_not_change_the_keys,
    reports::what_somebody_took_away_comes_back_with_a_report,
    reports::a_newer_agent_says_so_with_its_first_tick,
    reports::every_way_to_log_in,
    reports::the_node_is_waited_for_only_where_that_is_asked,
    reports::another_node_is_refused_at_once,
    reports::a_bad_token_and_an_expired_certificate_are_refused_at_once,
    reports::a_label_domain_of_kubernetes_is_refused_before_anybody_is_asked,
    reports::bad_input_is_one_error_that_names_file_and_field_and_nobody_is_asked,
    table::a_patch_as_a_dry_run_is_judged_and_not_kept,
    doctor::a_dry_run_says_that_a_report_would_be_taken_and_changes_nothing,
    doctor::what_the_api_server_would_refuse_is_said_with_the_permission,
    proxies::a_proxy_is_used_where_environment_or_kubeconfig_say_so,
    proxies::a_proxy_that_asks_for_a_password_gets_it_and_nobody_else,
    proxies::an_address_of_a_proxy_that_is_none_is_one_error_that_names_it,
}

#[test]
fn every_case_against_a_real_kube_apiserver() {
    let Some(cluster) = Cluster::real().unwrap() else {
        return skipped(&format!(
            "{ASSETS} is not set; it would name a directory with kube-apiserver and etcd"
        ));
    };
    let failed: Vec<&str> = CASES
        .iter()
        .filter(|(name, case)| {
            let failed = catch_unwind(AssertUnwindSafe(|| case(&cluster))).is_err();
            println!("{} {name} (real kube-apiserver)", if failed { "FAIL" } else { "ok  " });
            failed
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}
