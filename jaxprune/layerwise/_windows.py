"""Windows: which products are pruned together, before the program goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxprune.layerwise.program import Site


def windows_of(sites: Sequence[Site], names: Sequence[str] | None) -> list[list[Site]]:
    """Groups products.

    Args:
      sites: the products, in program order.
      names: regular expressions. Neighbours that the same one finds in their names, with the same
        groups, form a window. The others, and all if omitted, form windows of their own: those that
        have one input in common, such as query, key and value.

    Returns:
      The windows, each in program order, ordered by their first product.

    Raises:
      ValueError: if an expression finds nothing, or is none.
      TypeError: if it is no string.
    """
    if isinstance(names, str):
        raise TypeError(f"windows is a list of regular expressions; got the string {names!r}.")
    patterns = []
    for name in names or ():
        if not isinstance(name, str):
            raise TypeError(f"windows holds regular expressions of paths; got {name!r}.")
        try:
            patterns.append(re.compile(name))
        except re.error as error:
            raise ValueError(f"the window {name!r} is no regular expression: {error}.") from None
        if not any(patterns[-1].search(site.name) for site in sites):
            raise ValueError(
                f"the window {name!r} names none of the products {[site.name for site in sites]}."
            )
    found: list[list[Site]] = []
    last: object = None
    by_input: dict[int, list[Site]] = {}
    for site in sites:
        key = None
        for k, pattern in enumerate(patterns):
            if match := pattern.search(site.name):
                key = k, match.groups()
                break
        if key is None:
            if site.other in by_input:
                by_input[site.other].append(site)
                continue
            found.append([site])
            by_input[site.other] = found[-1]
        elif key == last:
            found[-1].append(site)
        else:
            found.append([site])
        last = key
    return found
