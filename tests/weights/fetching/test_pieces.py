"""The plan of a fetch: every byte of every file once, and the files side by side."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from weights.fetching.pieces import Piece, plan_pieces
from weights.lock import Lock, LockedFile

SIZES = st.lists(st.integers(0, 5000), min_size=1, max_size=6)
PIECE_BYTES = st.integers(1, 6000)


def lock_of(sizes: list[int]) -> Lock:
    files = tuple(LockedFile(f"f{n}", size, "sha256:0") for n, size in enumerate(sizes))
    return Lock(name="x", variant=None, dtype=None, url="x.tar", files=files)


@given(SIZES, PIECE_BYTES.filter(lambda count: count > 20))
def test_each_byte_of_each_file_is_in_one_piece(sizes, piece_bytes):
    plan = plan_pieces(lock_of(sizes), piece_bytes)
    for index, size in enumerate(sizes):
        pieces = [piece for piece in plan if piece.file == index]
        assert [byte for piece in pieces for byte in range(piece.start, piece.end)] == [
            *range(size)
        ]


@given(SIZES, PIECE_BYTES.filter(lambda count: count > 20))
def test_pieces_are_numbered_from_the_start_and_full_but_the_last(sizes, piece_bytes):
    for piece in plan_pieces(lock_of(sizes), piece_bytes):
        assert piece.start == piece.number * piece_bytes
        assert 0 < piece.end - piece.start <= piece_bytes
        assert piece.end == min(piece.start + piece_bytes, sizes[piece.file])


@given(SIZES, PIECE_BYTES.filter(lambda count: count > 20))
def test_the_files_grow_in_proportion(sizes, piece_bytes):
    """At every moment, no file is ahead of another by more than a piece of the other."""
    there = dict.fromkeys(range(len(sizes)), 0)
    for piece in plan_pieces(lock_of(sizes), piece_bytes):
        there[piece.file] = piece.end
        ahead = Fraction(piece.end, sizes[piece.file])
        for index, size in enumerate(sizes):
            assert there[index] >= min(size, ahead * size - piece_bytes)


def test_files_of_one_size_take_turns():
    plan = plan_pieces(lock_of([30, 30]), 10)
    assert [(piece.file, piece.number) for piece in plan] == [
        (file, number) for number in range(3) for file in range(2)
    ]


def test_a_small_file_comes_with_the_end_of_a_large_one():
    assert plan_pieces(lock_of([1, 25]), 10) == [
        Piece(1, 0, 0, 10),
        Piece(1, 1, 10, 20),
        Piece(0, 0, 0, 1),
        Piece(1, 2, 20, 25),
    ]


def test_of_an_empty_file_there_is_no_piece():
    assert plan_pieces(lock_of([0]), 10) == []
