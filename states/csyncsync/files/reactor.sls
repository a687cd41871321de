#!py
# What the master does about csyncsync's events. In Python, because YAML would be read out of what minions wrote, and
# because Jinja takes ten times as long: a minion can fire a thousand events a second.
from csync2lib.master import rate_limit


def run():
    return rate_limit.react(tag, data, __opts__)
