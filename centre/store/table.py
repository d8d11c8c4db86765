"""Every table. No column holds a name, an address, a personal number or a picture.

People are pseudonyms from the grants, homes are gateway ids, and of a signed command only its hash is kept (an offer's
SDP holds network addresses).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()

HOMES: Final = sa.Table(
    "homes",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("device_kid", sa.String(64), nullable=False),
    sa.Column("online", sa.Boolean, nullable=False),
    sa.Column("heard_unix_s", sa.Float),
    sa.Column("boot", sa.String(64)),
    sa.Column("sw", sa.String(64)),
    sa.Column("clock_state", sa.String(40)),
    sa.Column("clock_lo_unix_s", sa.Float),
    sa.Column("clock_hi_unix_s", sa.Float),
    sa.Column("agreement", sa.String(64)),
    sa.Column("version", sa.BigInteger),
    sa.Column("due_json", sa.Text, nullable=False),
    sa.Column("obstacle", sa.String(40)),
    # Since when the broker says that it is gone; empty while it is there.
    sa.Column("offline_unix_s", sa.Float),
)
# A table of its own: an older database gets it by `create_all`, and a column it would not.
TUNNELS: Final = sa.Table(
    "tunnels",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("word", sa.String(40), nullable=False),
)
# The newest view signal of each home: of the picture, never of the person.
SIGNALS: Final = sa.Table(
    "signals",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("check_id", sa.String(64), nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("t_us", sa.BigInteger),
    sa.Column("view", sa.String(40)),
    sa.Column("luma", sa.Float),
    sa.Column("contrast", sa.Float),
    sa.Column("sharpness", sa.Float),
    sa.Column("motion", sa.Float),
    sa.Column("aim", sa.String(40)),
)
SESSIONS: Final = sa.Table(
    "sessions",
    METADATA,
    sa.Column("session_sha256", sa.String(64), primary_key=True),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("exp_unix_s", sa.Float, nullable=False),
)
GRANTS: Final = sa.Table(
    "grants",
    METADATA,
    sa.Column("grant_sha256", sa.String(64), primary_key=True),
    sa.Column("kid", sa.String(64), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("roles", sa.String(120), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("nbf_unix_s", sa.Float, nullable=False),
    sa.Column("exp_unix_s", sa.Float, nullable=False),
)
COMMANDS: Final = sa.Table(
    "commands",
    METADATA,
    sa.Column("correlation", sa.String(32), primary_key=True),
    sa.Column("command_sha256", sa.String(64), nullable=False),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("jti", sa.String(64), nullable=False),
    sa.Column("sent_unix_s", sa.Float, nullable=False),
    sa.Column("answer", sa.String(40)),
    sa.Column("answered_unix_s", sa.Float),
)
DEVICE_HEALTH: Final = sa.Table(
    "device_health",
    METADATA,
    # The newest report of each home, as it signed it.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.Column("health_json", sa.String(4096), nullable=False),
)
DEVICE_LOG: Final = sa.Table(
    "device_log",
    METADATA,
    # Counted by the hour, as alarms are: a home that logs without end must not fill the disk.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("hour_unix_s", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("service", sa.String(16), primary_key=True),
    sa.Column("level", sa.String(16), primary_key=True),
    sa.Column("event", sa.String(40), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("last_unix_s", sa.Float, nullable=False),
)
OUTCOMES: Final = sa.Table(
    "outcomes",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("check_id", sa.String(64), nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("why", sa.String(40), nullable=False),
    sa.Column("verdict", sa.String(40)),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(40), nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("watched_s", sa.Float, nullable=False),
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("parked", sa.Boolean, nullable=False),
    sa.Column("ledger_size", sa.BigInteger, nullable=False),
    sa.Column("next", sa.String(40), nullable=False),
    sa.Column("next_unix_s", sa.Float),
    sa.Column("view", sa.String(40)),
    # The device's own signature over all of the above: evidence that outlives this centre. Empty where its report was
    # lost: then the evidence is its ledger's `closed` record, under a witnessed checkpoint.
    sa.Column("closed_jws", sa.Text, nullable=False),
    sa.UniqueConstraint("gateway", "check_id"),
    sa.Index("outcomes_newest", "gateway", "number"),
)
LEDGER_RECORDS: Final = sa.Table(
    "ledger_records",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("kind", sa.String(40)),
    sa.Column("who", sa.String(64)),
    sa.Column("why", sa.String(40)),
    sa.Column("check_id", sa.String(64)),
    sa.Column("time_lo_unix_s", sa.Float),
    sa.Column("watched_s", sa.Float),
    sa.Column("frames", sa.BigInteger),
)
LEDGER_CHECKPOINTS: Final = sa.Table(
    "ledger_checkpoints",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("note_sha256", sa.String(64), primary_key=True),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
)
REFUSALS: Final = sa.Table(
    "refusals",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("code", sa.String(40), nullable=False),
    sa.Column("re", sa.String(64), nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.UniqueConstraint("gateway", "re"),
)
ALARMS: Final = sa.Table(
    "alarms",
    METADATA,
    # One row an hour and cause with a count: a peer that floods us must not fill the disk.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("code", sa.String(40), primary_key=True),
    sa.Column("hour_unix_s", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("last_unix_s", sa.Float, nullable=False),
)
WITNESSED: Final = sa.Table(
    "witnessed",
    METADATA,
    # The newest checkpoint that was found consistent, and the tree over the lines that were compared with it.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("root_hex", sa.String(64), nullable=False),
    # With our cosignature as its last line, where the centre has a witness key.
    sa.Column("note", sa.String(8192), nullable=False),
    sa.Column("is_cosigned", sa.Boolean, nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("lines_size", sa.BigInteger, nullable=False),
    sa.Column("peaks_hex", sa.String(4096), nullable=False),
)
DISABLED: Final = sa.Table(
    "disabled",
    METADATA,
    # Never deleted: a home comes back by a higher install_epoch, and what happened before stays to be read.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("why", sa.String(40), nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("known_size", sa.BigInteger, nullable=False),
    sa.Column("note_sha256", sa.String(64), nullable=False),
)
RECONCILIATIONS: Final = sa.Table(
    "reconciliations",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("lines", sa.BigInteger, nullable=False),
    sa.Column("witnessed_size", sa.BigInteger),
    sa.Column("silent_s", sa.Float),
    sa.Column("findings", sa.String(200), nullable=False),
)
AGREEMENTS: Final = sa.Table(
    "agreements",
    METADATA,
    # A row without `accepted_unix_s` went to the home and is not known to be in force.
    sa.Column("correlation", sa.String(32), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False, index=True),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("agreement", sa.String(64), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("agreement_json", sa.String(16384), nullable=False),
    sa.Column("sent_unix_s", sa.Float, nullable=False),
    sa.Column("accepted_unix_s", sa.Float),
)
OCCASION_FACTS: Final = sa.Table(
    "occasion_facts",
    METADATA,
    # What a home signed about one occasion. `what` is "asked" (an opening; `ref` is the command's correlation, `word` a
    # refusal code or "check.opened"), "check" (ended; check id, outcome), "said" (of its list; line and occasion,
    # status) or "missed" (its own alarm; line and occasion, why).
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("what", sa.String(8), primary_key=True),
    sa.Column("ref", sa.String(120), primary_key=True),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(40), nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("word", sa.String(40)),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("closes_unix_s", sa.Float),
)
sa.Index("occasion_facts_by_time", OCCASION_FACTS.c.gateway, OCCASION_FACTS.c.at_unix_s)
sa.Index("occasion_facts_by_end", OCCASION_FACTS.c.closes_unix_s)
JUDGED: Final = sa.Table(
    "judged",
    METADATA,
    # Every occasion that began before `until_unix_s` has been judged for good; nothing can be missed before
    # `look_unix_s`.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("until_unix_s", sa.Float, nullable=False),
    sa.Column("look_unix_s", sa.Float, nullable=False),
)
HANDOVERS: Final = sa.Table(
    "handovers",
    METADATA,
    # Rows are never deleted, and `state` moves open, acknowledged, done only.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(64), nullable=False),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("unit", sa.String(64)),
    sa.Column("steps_json", sa.String(4096), nullable=False),
    sa.Column("within_min", sa.Integer, nullable=False),
    sa.Column("created_unix_s", sa.Float, nullable=False),
    sa.Column("deadline_unix_s", sa.Float, nullable=False),
    sa.Column("escalates_unix_s", sa.Float, nullable=False),
    sa.Column("escalations", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("acknowledged_by", sa.String(64)),
    sa.Column("acknowledged_unix_s", sa.Float),
    sa.Column("done_by", sa.String(64)),
    sa.Column("done_unix_s", sa.Float),
    sa.Column("outcome", sa.String(40)),
    sa.Column("since", sa.String(40)),
    sa.Column("arrived_by", sa.String(64)),
    sa.Column("arrived_unix_s", sa.Float),
    sa.Column("arrive_by_unix_s", sa.Float),
    sa.Column("outcome_by_unix_s", sa.Float),
    sa.UniqueConstraint("gateway", "install_epoch", "line", "occasion"),
)
HANDOVER_EVENTS: Final = sa.Table(
    "handover_events",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("handover", sa.String(64), nullable=False, index=True),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("who", sa.String(64)),
    sa.Column("word", sa.String(40)),
    sa.Column("at_unix_s", sa.Float, nullable=False),
)
CLAIMS: Final = sa.Table(
    "claims",
    METADATA,
    # Who is about to make a check. It lapses by itself, so that a page that vanished keeps nobody away.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("line", sa.String(64), primary_key=True),
    sa.Column("occasion", sa.String(40), primary_key=True),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("until_unix_s", sa.Float, nullable=False),
)
AUDIT: Final = sa.Table(
    "audit",
    METADATA,
    # Who changed or read what, and what was refused. Rows are never changed; `tillsyn centre` deletes none.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at_unix_s", sa.Float, nullable=False, index=True),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("gateway", sa.String(64)),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("code", sa.String(40)),
)
FAULTS: Final = sa.Table(
    "faults",
    METADATA,
    # What is not in order at a home, from when it was noticed until it was over. `code` is of `centre.fault`.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("code", sa.String(40), primary_key=True),
    sa.Column("since_unix_s", sa.Float, primary_key=True),
    sa.Column("until_unix_s", sa.Float),
    sa.Column("taken_by", sa.String(64)),
    sa.Column("taken_unix_s", sa.Float),
)
sa.Index("faults_now", FAULTS.c.until_unix_s)
DELIVERIES: Final = sa.Table(
    "deliveries",
    METADATA,
    # The outbox of hand-overs: one row for each event of one and each channel, until it has gone out. Addresses stand
    # in the configuration, never here.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("event", sa.Integer, nullable=False),
    sa.Column("handover", sa.String(64), nullable=False, index=True),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("unit", sa.String(64), nullable=False),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_unix_s", sa.Float, nullable=False),
    sa.Column("created_unix_s", sa.Float, nullable=False),
    sa.Column("done_unix_s", sa.Float),
    sa.Column("why", sa.String(40)),
    sa.UniqueConstraint("event", "unit", "channel"),
)
DRAFTS: Final = sa.Table(
    "drafts",
    METADATA,
    # Agreements that a municipal system sent in, waiting for a planner's signature.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("agreement_json", sa.String(16384), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("by_who", sa.String(64)),
    sa.Column("done_unix_s", sa.Float),
)
PASSKEYS: Final = sa.Table(
    "passkeys",
    METADATA,
    sa.Column("credential_id", sa.String(1400), primary_key=True),
    sa.Column("who", sa.String(64), nullable=False, index=True),
    sa.Column("public_key_hex", sa.String(2048), nullable=False),
    sa.Column("sign_count", sa.BigInteger, nullable=False),
    sa.Column("created_unix_s", sa.Float, nullable=False),
    sa.Column("used_unix_s", sa.Float),
)
LOGINS: Final = sa.Table(
    "logins",
    METADATA,
    # Logins under way: a passkey's challenge, or what an OpenID provider has to give back. Each is used once.
    sa.Column("id_sha256", sa.String(64), primary_key=True),
    sa.Column("way", sa.String(16), nullable=False),
    sa.Column("who", sa.String(64)),
    sa.Column("secret", sa.String(200), nullable=False),
    sa.Column("exp_unix_s", sa.Float, nullable=False),
)
ROLLOUTS: Final = sa.Table(
    "rollouts",
    METADATA,
    # One update on its way to the homes. `status` is in-progress, awaiting-approval, paused, halted, completed or
    # canceled; `ring` counts from the lab on. Rows are never deleted.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("update_jws", sa.String(16384), nullable=False),
    sa.Column("statement", sa.BigInteger, nullable=False, index=True),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("compatible", sa.String(64), nullable=False),
    sa.Column("criteria_json", sa.String(2048), nullable=False),
    sa.Column("status", sa.String(20), nullable=False, index=True),
    sa.Column("why", sa.String(40)),
    sa.Column("ring", sa.Integer, nullable=False),
    sa.Column("last_ring", sa.Integer, nullable=False),
    sa.Column("ring_unix_s", sa.Float),
    sa.Column("approved_ring", sa.Integer),
    sa.Column("approved_by", sa.String(64)),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("created_unix_s", sa.Float, nullable=False),
    sa.Column("changed_by", sa.String(64)),
    sa.Column("changed_unix_s", sa.Float, nullable=False),
)
EXECUTIONS: Final = sa.Table(
    "rollout_executions",
    METADATA,
    # One home of a rollout. `status` is queued, in-progress, succeeded, failed, timed-out, rejected or canceled.
    sa.Column("rollout", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("ring", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(16)),
    sa.Column("why", sa.String(40)),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("sent_unix_s", sa.Float),
    sa.Column("changed_unix_s", sa.Float, nullable=False),
    sa.Column("is_seen", sa.Boolean, nullable=False),
)
sa.Index("executions_by_ring", EXECUTIONS.c.rollout, EXECUTIONS.c.ring, EXECUTIONS.c.status)
UPDATE_REPORTS: Final = sa.Table(
    "update_reports",
    METADATA,
    # What homes signed about their updates, the newest 200 a home.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False, index=True),
    sa.Column("statement", sa.BigInteger, nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("running", sa.String(32), nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("why", sa.String(40)),
    sa.Column("percent", sa.Integer),
    sa.Column("at_unix_s", sa.Float, nullable=False),
)
