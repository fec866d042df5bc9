import hashlib

from hypothesis import given
from hypothesis import strategies as st

from conversion.background_digest import BackgroundDigest


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_the_digest_is_that_of_all_blocks_in_order(blocks):
    with BackgroundDigest() as digest:
        for block in blocks:
            digest.update(memoryview(block))
    assert digest.digest == f"sha256:{hashlib.sha256(b''.join(blocks)).hexdigest()}"


def test_an_error_inside_ends_the_thread():
    try:
        with BackgroundDigest() as digest:
            digest.update(b"a")
            raise KeyError
    except KeyError:
        pass
    assert not digest._thread.is_alive()
