"""In which order a run takes the files of tests: the longest first, so that none of them runs on alone at the end."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Those of more than some ten seconds, by the time that they take. What is not here comes after them.
LONGEST_FIRST = (
    "tests/e2e/test_scaled_out.py",
    "tests/test_bench_smoke.py",
    "tests/e2e/test_cli_user_commands.py",
    "tests/app/api/test_access.py",
    "tests/e2e/test_killed_at_will.py",
    "tests/e2e/test_shutdown.py",
    "tests/workers/test_in_store_failures.py",
    "tests/test_soak_smoke.py",
    "tests/e2e/test_shared_conversion.py",
    "tests/e2e/test_killed.py",
    "tests/app/catalog/test_pages.py",
    "tests/workers/test_kill_points.py",
    "tests/e2e/test_snapshots_killed.py",
    "tests/e2e/test_server_workflow.py",
    "tests/workers/test_qemu_hypervisor.py",
    "tests/workers/readiness/test_check.py",
    "tests/e2e/test_cli_sharing.py",
    "tests/e2e/test_processes.py",
    "tests/app/feed/test_streams.py",
    "tests/workers/test_capture.py",
    "tests/workers/test_in_store.py",
    "tests/app/api/test_sharing.py",
    "tests/e2e/test_quota_crowd.py",
    "tests/e2e/test_servers_page.py",
    "tests/e2e/test_graphiql_in_chromium.py",
    "tests/app/catalog/test_fsck.py",
    "tests/app/catalog/test_turns.py",
    "tests/e2e/test_operator_cli.py",
    "tests/e2e/test_outside_places.py",
    "tests/e2e/test_formats.py",
    "tests/app/adapters/test_s3_store.py",
    "tests/workers/test_hints.py",
    "tests/e2e/test_data_folder.py",
    "tests/e2e/test_full_disk.py",
    "tests/e2e/test_damaged.py",
    "tests/e2e/test_connections.py",
    "tests/e2e/test_sign_in.py",
    "tests/e2e/test_readme_upload.py",
    "tests/workers/test_differential.py",
    "tests/test_outside_suites.py",
    "tests/app/feed/test_restored.py",
    "tests/app/feed/test_sharing.py",
    "tests/app/catalog/test_jobs.py",
    "tests/app/api/test_uploads.py",
    "tests/app/catalog/test_billing.py",
    "tests/app/api/test_copies.py",
    "tests/app/catalog/test_boot_checks.py",
    "tests/app/test_real_boot_check.py",
    "tests/workers/test_ways.py",
    "tests/app/api/test_changes.py",
    "tests/app/api/test_signed_requests.py",
    "tests/app/feed/test_following.py",
    "tests/app/database/test_postgres_races.py",
    "tests/app/client/test_resume.py",
    "tests/app/client/test_watching.py",
)


def sort_files(items: list[pytest.Item]) -> None:
    """Sort tests by their files; those of one file stay as they are."""
    ranks = {ROOT / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
