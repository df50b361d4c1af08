-- Identical short connections that came too fast have one row: this is how many it stands for. It began with the first of them and
-- ended with the last one; its bytes are their sum, its duration the longest. NULL: it is one connection.
ALTER TABLE conn ADD COLUMN count INTEGER;

-- For people: a connection as text.
CREATE VIEW connection AS
SELECT
    run.name || '-' || (conn.id & 0xffffffffff)                                AS id,
    strftime('%Y-%m-%dT%H:%M:%S', conn.began / 1000000000, 'unixepoch')
        || printf('.%09dZ', conn.began % 1000000000)                           AS began,
    strftime('%Y-%m-%dT%H:%M:%S', conn.ended / 1000000000, 'unixepoch')
        || printf('.%09dZ', conn.ended % 1000000000)                           AS ended,
    opened.dir                                                                 AS dir,
    l.text                                                                     AS laddr,
    conn.lport                                                                 AS lport,
    r.text                                                                     AS raddr,
    conn.rport                                                                 AS rport,
    closed.how                                                                 AS end,
    conn.duration / 1e9                                                        AS seconds,
    conn.bytes_in                                                              AS bytes_in,
    conn.bytes_out                                                             AS bytes_out,
    ifnull(conn.count, 1)                                                      AS count,
    process.pid, process.comm, process.exe, process.args, process.sha256,
    process.user, process.unit, process.container, process.ancestors,
    run.host                                                                   AS host,
    opened.netns                                                               AS netns
FROM conn
JOIN run ON run.id = conn.id >> 40
JOIN opened ON opened.id = conn.opened
JOIN addr AS l ON l.id = conn.laddr
JOIN addr AS r ON r.id = conn.raddr
LEFT JOIN closed ON closed.id = conn.closed
LEFT JOIN process ON process.id = conn.process
WHERE conn.goes_on IS NULL;
