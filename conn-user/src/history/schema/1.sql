-- Times are nanoseconds since 1970 (UTC), durations nanoseconds.

-- A run of the agent.
CREATE TABLE run (
    id              INTEGER PRIMARY KEY,
    -- What the ids of its connections, processes and alerts begin with: 752b100f-539cace2690
    name            TEXT NOT NULL UNIQUE,
    host            TEXT NOT NULL,
    boot_id         TEXT NOT NULL,
    -- Start of the agent, on the boot clock.
    agent_start     INTEGER NOT NULL,
    -- Wall clock minus boot clock when the run began in this file.
    wall_minus_boot INTEGER NOT NULL,
    began           INTEGER NOT NULL,
    -- NULL: it goes on, or was killed.
    ended           INTEGER
) STRICT;

-- Addresses, each once.
CREATE TABLE addr (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- Processes as they were known last, each once between two execs.
CREATE TABLE process (
    id        INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL REFERENCES run,
    -- Its id in JSON: 752b100f-1234-5678
    name      TEXT NOT NULL,
    pid       INTEGER NOT NULL,
    ppid      INTEGER,
    -- Text with escapes, as people see it.
    comm      TEXT NOT NULL,
    exe       TEXT,
    args      TEXT NOT NULL,
    sha256    TEXT,
    uid       INTEGER NOT NULL,
    user      TEXT,
    unit      TEXT,
    container TEXT,
    -- Nearest first, separated by ' < '.
    ancestors TEXT NOT NULL,
    -- The object `process` of events.
    json      TEXT NOT NULL
) STRICT;

-- What many connections share of how they were opened.
CREATE TABLE opened (
    id            INTEGER PRIMARY KEY,
    -- The kind of its first event: connect, accept, established, failed, close.
    first         TEXT NOT NULL,
    dir           TEXT NOT NULL,
    proto         TEXT NOT NULL,
    netns         INTEGER NOT NULL,
    source        TEXT NOT NULL,
    -- How the owner is known.
    method        TEXT NOT NULL,
    hook          TEXT,
    reason        TEXT,
    -- How the owner of its listener is known; NULL: there is none, or it is not known.
    listener_method TEXT,
    listener_hook   TEXT,
    listener_reason TEXT,
    mapped        INTEGER NOT NULL,
    kernel_socket INTEGER NOT NULL,
    device        TEXT
) STRICT;

-- What many connections share of how they ended.
CREATE TABLE closed (
    id     INTEGER PRIMARY KEY,
    -- The `end` of a close event; failed: it was never established.
    how    TEXT NOT NULL,
    errno  INTEGER NOT NULL,
    -- How the closer is known.
    method TEXT,
    hook   TEXT,
    reason TEXT
) STRICT;

-- Connections, each once.
CREATE TABLE conn (
    -- run << 40 | number of the connection
    id                INTEGER PRIMARY KEY,
    -- When its first event was.
    began             INTEGER NOT NULL,
    -- NULL: open.
    ended             INTEGER,
    raddr             INTEGER NOT NULL REFERENCES addr,
    -- 0: not known.
    rport             INTEGER NOT NULL,
    -- The owner; NULL: not known, see the method in `opened`.
    process           INTEGER REFERENCES process,
    -- NULL: not known, or open.
    bytes_in          INTEGER,
    bytes_out         INTEGER,
    laddr             INTEGER NOT NULL REFERENCES addr,
    lport             INTEGER NOT NULL,
    opened            INTEGER NOT NULL REFERENCES opened,
    closed            INTEGER REFERENCES closed,
    -- From established to the end; of one that failed, from the SYN.
    duration          INTEGER,
    retransmits       INTEGER,
    srtt_us           INTEGER,
    -- The `seq` of its events: the first one, established, close or failed.
    seq               INTEGER NOT NULL,
    seq_established   INTEGER,
    seq_ended         INTEGER,
    -- Boot clock: of the first event, as `began` minus `wall_minus_boot` of the run minus it.
    skew              INTEGER NOT NULL,
    -- Of the other events minus that; NULL: the same.
    skew_established  INTEGER,
    skew_ended        INTEGER,
    -- When it was established, minus the first event, on the boot clock; negative of one that waited to be accepted.
    established_after INTEGER,
    -- Owner of the listener; 0: the owner.
    listener          INTEGER,
    -- Who closed it; 0: the owner, NULL: not known.
    closer            INTEGER,
    -- The thread of owner and closer; NULL: the main thread of a process that a hook named, else none; -1: none.
    tid               INTEGER,
    closer_tid        INTEGER,
    -- What few have: JSON.
    more              TEXT,
    -- 1: it goes on in the file of the next day.
    goes_on           INTEGER
) STRICT;

CREATE INDEX conn_by_raddr ON conn (raddr, began);
CREATE INDEX conn_open ON conn (id) WHERE ended IS NULL;

-- Listeners, each once.
CREATE TABLE listener (
    -- run << 40 | number, in the same sequence as connections
    id       INTEGER PRIMARY KEY,
    began    INTEGER NOT NULL,
    -- NULL: it listens.
    ended    INTEGER,
    laddr    TEXT NOT NULL,
    lport    INTEGER NOT NULL,
    process  INTEGER REFERENCES process,
    seq      INTEGER NOT NULL,
    seq_ended INTEGER,
    -- The lines of its events.
    listen   TEXT,
    unlisten TEXT,
    goes_on  INTEGER
) STRICT;

-- Steps of alerts.
CREATE TABLE alert (
    run      INTEGER NOT NULL REFERENCES run,
    seq      INTEGER NOT NULL,
    ts       INTEGER NOT NULL,
    -- 752b100f-539cace2690-a7
    name     TEXT NOT NULL,
    phase    TEXT NOT NULL,
    severity TEXT NOT NULL,
    rule     TEXT NOT NULL,
    process  INTEGER REFERENCES process,
    -- The whole event.
    line     TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- What else happened: gap, repair, degraded, heartbeat.
CREATE TABLE note (
    run  INTEGER NOT NULL REFERENCES run,
    seq  INTEGER NOT NULL,
    ts   INTEGER NOT NULL,
    kind TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
