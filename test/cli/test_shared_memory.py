"""Only dead segments that appeared after the snapshot are removed."""

import fcntl
from pathlib import Path

from cosmos3_ros.cli.shared_memory import clean_dead_segments, dead_files, list_files

DEAD, LIVING, OLD = 'fastdds_0123456789abcdef', 'fastdds_fedcba9876543210', 'fastdds_1111111111111111'


def make(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_bytes(b'x')


def test_dead_segments_go_and_everything_else_stays(tmp_path: Path) -> None:
    make(tmp_path, OLD, f'{OLD}_el', 'somebody_else')
    before = list_files(tmp_path)
    make(tmp_path, DEAD, f'{DEAD}_el', LIVING, f'{LIVING}_el', 'psm_other')
    make(tmp_path, 'fastdds_port7411', 'fastdds_port7411_el', 'sem.fastdds_port7411_mutex')
    with (tmp_path / f'{LIVING}_el').open('ab') as owner:
        fcntl.flock(owner, fcntl.LOCK_SH)
        removed = clean_dead_segments(before, tmp_path)
    assert set(removed) == {
        DEAD, f'{DEAD}_el', 'fastdds_port7411', 'fastdds_port7411_el', 'sem.fastdds_port7411_mutex'}
    assert list_files(tmp_path) == before | {LIVING, f'{LIVING}_el', 'psm_other'}


def test_port_that_lost_its_lock_goes_only_in_our_domain(tmp_path: Path) -> None:
    make(tmp_path, 'fastdds_port7661', 'sem.fastdds_port7661_mutex', 'fastdds_port9999')
    assert clean_dead_segments(frozenset(), tmp_path) == []
    removed = clean_dead_segments(frozenset(), tmp_path, range(7650, 7900))
    assert removed == ['fastdds_port7661', 'sem.fastdds_port7661_mutex']
    assert list_files(tmp_path) == {'fastdds_port9999'}


def test_dead_ones_are_named(tmp_path: Path) -> None:
    make(tmp_path, DEAD, f'{DEAD}_el', LIVING, f'{LIVING}_el')
    with (tmp_path / f'{LIVING}_el').open('ab') as owner:
        fcntl.flock(owner, fcntl.LOCK_SH)
        assert dead_files(tmp_path) == [DEAD]


def test_missing_directory_is_empty(tmp_path: Path) -> None:
    assert list_files(tmp_path / 'none') == frozenset()
    assert clean_dead_segments(frozenset(), tmp_path / 'none') == []
