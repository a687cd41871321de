"""
Show the status of groups as a table, with what needs somebody above it: ``salt-run csyncsync.status``.

``csync2lib/report/table.py`` says what stands in the table; here it gets its colors. ``--out=json``, like all of Salt's
other outputters, shows the same facts.
"""

import salt.utils.color
from csync2lib.report.table import table
from csync2lib.report.words import one_line


def output(data, **kwargs):  # pylint: disable=unused-argument
    """
    The text to print for ``{"groups": {GROUP: {minion id: row}}}``, as ``csyncsync.status`` of the runner returns it,
    or for ``{"problem": text}``, which any of its commands returns that cannot be done.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.status --out=csyncsync
    """
    colors = salt.utils.color.get_colors(__opts__.get("color"), __opts__.get("color_theme"))

    def color(text, problem):
        return f"{colors['LIGHT_RED' if problem else 'GREEN']}{text}{colors['ENDC']}"

    if isinstance(data, dict) and "problem" in data:
        return color(one_line(str(data["problem"])), True)
    if not isinstance(data, dict) or "groups" not in data:
        return one_line(str(data))
    if not data["groups"]:
        return "there is no group: salt '*' state.apply csyncsync"
    return "\n".join(table(data["groups"], color))
