"""Tables in our guides that are made from the code: each lies between two marker lines."""

from weights.errors import UserError


def with_table(text: str, name: str, table: str) -> str:
    """`text` with `table` between the markers of `name`.

    Raises:
        UserError: the markers are not there.
    """
    start, end = f"<!-- {name}: made by `make docs` -->", f"<!-- end of {name} -->"
    if start not in text or end not in text:
        raise UserError(
            f"The file has no place for the table of {name}.",
            f"It is expected between the lines {start} and {end}.",
            "Add these two lines.",
        )
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{table}\n{end}{rest.split(end, 1)[1]}"
