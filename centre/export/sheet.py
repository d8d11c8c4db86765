"""The resident's own sheet: when somebody last looked, how often this month, when next, and how to stop it.

Machine-generated from the ledger and the signed agreement, so that it can't promise what isn't agreed (requirement
R64). It says only what this version does.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from centre.export import vocabulary
from centre.export.account import Account, Look, by_time, clock_uncertain, shown
from centre.export.document import Bullets, Caution, Document, Heading, Paragraph, Part
from centre.export.moment import MONTHS, WEEKDAYS, Period, capital, clock, day_in_words, in_words, length_in_words
from centre.export.words import Words
from gateway.agreement import Agreement, Line, Occasion, occasions_between
from gateway.agreement.occasion import pause_bounds
from gateway.agreement.recurrence import parse_recurrence

HORIZON_DAYS: Final = 62
"""How far ahead the next check is looked for."""
_WEEKDAY_CODES: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


def make(
    account: Account,
    agreement: Agreement | None,
    say: Words,
    *,
    zone: ZoneInfo,
    now: datetime,
    period: Period | None = None,
    phone: str | None = None,
) -> Document:
    """The sheet as of `now`; it counts over `period`, or else over the month of `now` in the home's time."""
    counted = period or _month_of(zone, now)
    ask = (
        say("Phone the centre: {phone}.", phone=phone)
        if phone
        else say("Phone the centre. The number is in your agreement.")
    )
    parts: list[Part] = [
        *_cautions(account, say),
        *_last_check(account, zone, say),
        *_count(account.within(counted), counted, say),
        *_next_check(account, agreement, zone, now, say),
        *_agreed(agreement, say),
        Heading(say("What is in your home")),
        Bullets((
            say("A camera and a small lamp. There is no microphone."),
            say("While the camera is on, it is turned toward you and the lamp is lit."),
            say("At all other times the camera is off and turned up."),
        )),
        Heading(say("What is kept")),
        Bullets((
            say("When somebody looked, how long and who, and whether they saw you."),
            say("When somebody asked and was refused."),
            say("When the device started, and when the agreement changed."),
        )),
        Heading(say("What is not kept")),
        Bullets((
            say("No picture, no film, no sound."),
            say("The log has no name, no address and no personal number."),
        )),
        Heading(say("How to stop")),
        Bullets((
            say("You may stop at any time. You need not say why."),
            say("If your camera has a button: press it. It works without any network."),
            ask,
            say("You can also say no for one night only."),
            say("When you have stopped, nobody can look until you have agreed again."),
        )),
        Heading(say("Who to ask")),
        Paragraph(say("You can ask who has looked. You can ask to have the log.")),
        Paragraph(ask),
        *_origin(account, agreement, zone, now, say),
    ]  # fmt: skip
    return Document(say("Your checks by camera"), say.language, say("Page"), tuple(parts))


def next_occasion(account: Account, agreement: Agreement, now: datetime) -> Occasion | None:
    """The next occasion at which somebody may look: not paused, with consent, and not ended by the resident."""
    if account.withdrawn:
        return None
    resident, cohabitant = agreement.consent.resident, agreement.consent.cohabitant
    if resident is None:
        return None
    people = (resident,) if cohabitant is None else (resident, cohabitant)
    zone = agreement.zone
    pauses = sorted(pause_bounds(zone, pause) for pause in agreement.pauses)
    own_pause_s = account.paused_until_unix_s or 0.0
    for occasion in occasions_between(agreement, now, now + timedelta(days=HORIZON_DAYS)):
        opens_s = max(float(occasion.start_unix_s), own_pause_s)
        for first_s, last_s in pauses:
            if first_s <= opens_s < last_s:
                opens_s = float(last_s)
        day = datetime.fromtimestamp(occasion.start_unix_s, zone).date()
        if opens_s <= occasion.end_unix_s and all(person.holds(day, day) for person in people):
            return occasion
    return None


def _month_of(zone: ZoneInfo, now: datetime) -> Period:
    today = now.astimezone(zone).date()
    return Period(zone, today.replace(day=1), today)


def _cautions(account: Account, say: Words) -> list[Part]:
    parts: list[Part] = []
    if account.fault is not None:
        parts.append(
            Caution(
                say("This log was NOT VERIFIED. What is written here may be wrong or incomplete. Do not rely on it.")
            )
        )
    if account.erased:
        parts.append(
            Paragraph(
                say.plural(
                    "{n} older record of the log is erased, because its time was over.",
                    "{n} older records of the log are erased, because their time was over.",
                    account.erased,
                )
            )
        )
    return parts


def _last_check(account: Account, zone: ZoneInfo, say: Words) -> list[Part]:
    looks = by_time(account.looks)
    if not looks:
        return [Heading(say("The last check")), Paragraph(say("There is no check in the log."))]
    look = looks[-1]
    when = capital(say("{moment}.", moment=in_words(zone, look.first.time_lo, say)))
    if clock_uncertain(look.first):
        when += " " + say("The device was not sure of the time; it was not earlier.")
    who = vocabulary.role(look.first.role, say)
    return [
        Heading(say("The last check")),
        Paragraph(when),
        Bullets((_length(look, say), say("Who looked: {who}.", who=who), _outcome(look, say))),
    ]


def _length(look: Look, say: Words) -> str:
    if look.watched_s is None:
        return say("How long is not known, because no ending is recorded.")
    if not look.went_live:
        return say("No picture was shown.")
    words = length_in_words(look.watched_s, say)
    if look.recovered:
        return say("It lasted {length}, or up to ten seconds more.", length=words)
    return say("It lasted {length}.", length=words)


def _outcome(look: Look, say: Words) -> str:
    match look.outcome:
        case "seen":
            return say("You were seen.")
        case "not-seen":
            return say("You were not seen.")
        case "unsure":
            return say("The operator was not sure whether you were seen.")
        case _:
            why = vocabulary.ending(look.why, say)
            return say("No answer was given ({why}).", why=why) if why else say("No answer was given.")


def _count(account: Account, period: Period, say: Words) -> list[Part]:
    items = [
        say.plural(
            "The camera was on {n} time.", "The camera was on {n} times.", sum(look.went_live for look in account.looks)
        )
    ]
    dark = sum(not look.went_live for look in account.looks)
    if dark:
        items.append(
            say.plural(
                "{n} further time it was started, and no picture was shown.",
                "{n} further times it was started, and no picture was shown.",
                dark,
            )
        )
    watched_s = sum(look.watched_s or 0.0 for look in account.looks)
    if watched_s:
        items.append(say("All checks together lasted {length}.", length=length_in_words(watched_s, say)))
    refused: Counter[str] = Counter()
    for each in account.refusals:
        refused[each.code] += each.count
    if refused:
        reasons = ", ".join(
            say("{reason} ({n})", reason=vocabulary.refusal(code, say), n=number)
            for code, number in refused.most_common()
        )
        items.append(
            say.plural(
                "{n} request was refused: {reasons}.",
                "{n} requests were refused: {reasons}.",
                refused.total(),
                reasons=reasons,
            )
        )
    else:
        items.append(say("No request was refused."))
    return [Heading(_period_in_words(period, say)), Bullets(tuple(items))]


def _period_in_words(period: Period, say: Words) -> str:
    first, last = period.first, period.last
    if (
        first is not None
        and last is not None
        and first.day == 1
        and (first.year, first.month) == (last.year, last.month)
    ):
        if (last + timedelta(days=1)).day == 1:
            return capital(say("{month} {year}", month=say(MONTHS[first.month - 1]), year=first.year))
        return capital(say("{month} {year} so far", month=say(MONTHS[first.month - 1]), year=first.year))
    return say("From {first} to {last}", first=_day_or(first, say), last=_day_or(last, say))


def _day_or(day: date | None, say: Words) -> str:
    return "…" if day is None else day_in_words(day, say)


def _next_check(account: Account, agreement: Agreement | None, zone: ZoneInfo, now: datetime, say: Words) -> list[Part]:
    heading = Heading(say("The next check"))
    if account.withdrawn:
        return [heading, Paragraph(say("You have stopped the checks. Nobody can look until you have agreed again."))]
    if agreement is None:
        return [heading, Paragraph(say("The times are in your agreement."))]
    parts: list[Part] = [heading]
    pause_s = account.paused_until_unix_s
    if pause_s == float("inf"):
        return [heading, Paragraph(say("You have paused the checks."))]
    if pause_s is not None and pause_s > now.timestamp():
        parts.append(Paragraph(say("You have paused the checks until {moment}.", moment=in_words(zone, pause_s, say))))
    occasion = next_occasion(account, agreement, now)
    if occasion is None:
        return [*parts, Paragraph(say("No check is planned in the next two months."))]
    opens, end = capital(in_words(zone, occasion.start_unix_s, say)), clock(zone, occasion.end_unix_s, say)
    return [*parts, Paragraph(say("{moment}, or until {end} at the latest.", moment=opens, end=end))]


def _agreed(agreement: Agreement | None, say: Words) -> list[Part]:
    if agreement is None:
        return []
    items = [_line_in_words(line, say) for line in agreement.lines]
    steps = ", ".join(
        say("{step} (within {n} minutes)", step=_step(step.do, say), n=step.within_min)
        for step in agreement.if_not_seen
    )
    items.append(say("If you are still not seen: {steps}.", steps=steps))
    if agreement.picture.mode == "softened":
        items.append(say("The picture is blurred in the camera before anybody sees it."))
    if agreement.lamp == "on":
        items.append(say("The lamp is fully lit during a check."))
    else:
        items.append(say("The lamp is dimly lit during a check."))
    valid = agreement.valid
    items.append(
        say(
            "The agreement holds from {first} to {last}.",
            first=day_in_words(valid.first, say),
            last=day_in_words(valid.last, say),
        )
    )
    return [Heading(say("What you have agreed on")), Bullets(tuple(items))]


def _step(do: str, say: Words) -> str:
    return say(vocabulary.STEPS[do]) if do in vocabulary.STEPS else say("the agreed step {step}", step=shown(do))


def _line_in_words(line: Line, say: Words) -> str:
    start = datetime.combine(date(2000, 1, 1), line.start_time)
    end = start + timedelta(minutes=line.window_min)
    words = say(
        "{days} between {start} and {end}, for {seconds} seconds at most.",
        days=_days_in_words(line, say),
        start=start.strftime("%H:%M"),
        end=end.strftime("%H:%M"),
        seconds=line.max_s,
    )
    if line.recheck.times:
        words += " " + say.plural(
            "If you are not seen: again after {minutes} minutes, {n} time at most.",
            "If you are not seen: again after {minutes} minutes, {n} times at most.",
            line.recheck.times,
            minutes=line.recheck.after_min,
        )
    return words


def _days_in_words(line: Line, say: Words) -> str:
    rule = parse_recurrence(line.rrule)
    plain = rule.interval == 1 and not rule.month_days and rule.until is None and rule.count is None
    if plain and not line.exceptions and rule.frequency in ("DAILY", "WEEKLY"):
        days = [code for code, ordinal in rule.weekdays if ordinal is None]
        if not days and rule.frequency == "DAILY":
            return say("Every day")
        if days:
            named = [say(WEEKDAYS[index]) for index, code in enumerate(_WEEKDAY_CODES) if code in days]
            return say("Every {days}", days=", ".join(named))
    return say("On the agreed days")


def _origin(account: Account, agreement: Agreement | None, zone: ZoneInfo, now: datetime, say: Words) -> list[Part]:
    made = say(
        "This sheet was made {moment} from the log of the device {device}.",
        moment=in_words(zone, now.astimezone(UTC).timestamp(), say),
        device=account.gateway,
    )
    if agreement is not None:
        made += " " + say("Agreement: version {version}.", version=agreement.version)
    if account.report is not None:
        made += " " + say.plural(
            "The log was checked: its {n} record is unchanged.",
            "The log was checked: its {n} records are unchanged.",
            account.size,
        )
    return [Paragraph(made)]
