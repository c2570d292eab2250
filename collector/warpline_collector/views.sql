-- Stable names for people, over the declared tables. Times are nanoseconds, NULL means "not known", and a group of unknowns
-- is a group of its own. A sum that 64 bits do not hold is not known either. Order is left to the question.

-- The newest state of each finding that is open.
CREATE OR REPLACE VIEW current_findings AS
SELECT * FROM (
    SELECT * FROM findings QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
) WHERE state = 'open';

-- The furthest state of each request to look closer. Clocks of agents and collector differ: an answer outranks a request.
CREATE OR REPLACE VIEW current_captures AS
SELECT * FROM captures QUALIFY row_number() OVER (
    PARTITION BY id
    ORDER BY list_position(['requested', 'sent', 'expired', 'denied', 'done'], state) DESC NULLS LAST, updated_ns DESC
) = 1;

-- What capture costs each job, as the rank tells that finds it dearest. `mode` is how much is captured.
CREATE OR REPLACE VIEW capture_costs AS
SELECT * FROM (
    SELECT * FROM capture_overhead QUALIFY row_number() OVER (PARTITION BY job, rank ORDER BY time_ns DESC) = 1
) QUALIFY row_number() OVER (PARTITION BY job ORDER BY overhead_percent DESC NULLS LAST, time_ns DESC) = 1;

-- The newest reading of each GPU.
CREATE OR REPLACE VIEW latest_device_samples AS
SELECT * FROM device_samples
QUALIFY row_number() OVER (
    PARTITION BY node, coalesce(gpu_uuid, bus_id, CAST(gpu_index AS VARCHAR)) ORDER BY time_ns DESC
) = 1;

-- How each source, and each part of it that reports for itself, fared last.
CREATE OR REPLACE VIEW source_state AS
SELECT * FROM source_health
QUALIFY row_number() OVER (PARTITION BY cluster, node, source, subject ORDER BY time_ns DESC) = 1;

-- Which GPU was in which place of a node, and which machine bore its name, from when to when on the node's clock: `until_ns` and
-- `replaced_by` are NULL for what is there now. What was recorded of a GPU stays under its own UUID.
CREATE OR REPLACE VIEW places AS
SELECT
    cluster, node, source, kind, slot, gpu_index, gpu_name, identity, first_ns AS from_ns,
    coalesce(lead(last_ns) OVER following, lead(first_ns) OVER following) AS until_ns, lead(identity) OVER following AS replaced_by
FROM inventory WINDOW following AS (PARTITION BY node, source, kind, slot ORDER BY time_ns, first_ns);

-- Time: what each node's clock was off by. From `from_ns` (on the node's clock) to `until_ns`, NULL for up to now, it showed
-- offset_ns more than the collector's, and the truth is no farther from that than error_ns. Between two measurements the clock
-- may have gone from the one to the other. A time that a clock went through twice, because it was set back, is either of two:
-- error_ns covers both.
CREATE OR REPLACE VIEW clock_spans AS
WITH known AS (
    SELECT cluster, node, boot, time_ns AS from_ns, steady_ns, offset_ns, error_ns, jump_ns, before_ns FROM node_clocks
    WHERE node IS NOT NULL AND time_ns IS NOT NULL AND offset_ns IS NOT NULL AND error_ns IS NOT NULL
), back AS (
    SELECT jumps.node, any_value(jumps.before_ns) AS last_ns, any_value(-jumps.jump_ns) AS twice_ns,
        greatest(any_value(jumps.from_ns), coalesce(min(earlier.from_ns), any_value(jumps.from_ns))) AS first_ns
    FROM known AS jumps LEFT JOIN known AS earlier
        ON earlier.node = jumps.node AND earlier.boot = jumps.boot AND earlier.steady_ns < jumps.steady_ns
    WHERE jumps.jump_ns < 0 AND jumps.before_ns > jumps.from_ns GROUP BY jumps.node, jumps.boot, jumps.steady_ns
), lasting AS (
    SELECT
        *, lead(from_ns) OVER following AS until_ns, lead(error_ns) OVER following
            + abs(lead(offset_ns) OVER following - coalesce(lead(jump_ns) OVER following, 0) - offset_ns) AS next_ns
    FROM known WINDOW following AS (PARTITION BY node ORDER BY from_ns, steady_ns)
), doubt AS (
    SELECT lasting.node, lasting.from_ns, sum(back.twice_ns) AS twice_ns FROM lasting JOIN back
        ON back.node = lasting.node AND lasting.from_ns <= back.last_ns
        AND coalesce(lasting.until_ns, 9223372036854775807) > back.first_ns
    GROUP BY lasting.node, lasting.from_ns
)
SELECT
    cluster, node, from_ns, until_ns, offset_ns,
    TRY_CAST(greatest(error_ns, coalesce(next_ns, 0)) + coalesce(twice_ns, 0) AS BIGINT) AS error_ns
FROM lasting LEFT JOIN doubt USING (node, from_ns);

-- Time: rows with their time on the collector's clock, on which all nodes can be compared: `collector_ns`, give or take
-- `collector_error_ns`; NULL where nothing is known of the node's clock at that time. Since the last measurement a clock may have
-- run 100 parts in a million too fast or too slow.
CREATE OR REPLACE VIEW log_events_on_one_clock AS
SELECT
    rows.*, rows.time_ns - spans.offset_ns AS collector_ns, spans.error_ns
        + CASE WHEN spans.until_ns IS NULL THEN (rows.time_ns - spans.from_ns) // 10000 ELSE 0 END AS collector_error_ns
FROM log_events AS rows ASOF LEFT JOIN clock_spans AS spans ON rows.node = spans.node AND rows.time_ns >= spans.from_ns;

CREATE OR REPLACE VIEW steps_on_one_clock AS
SELECT
    rows.*, rows.start_ns - spans.offset_ns AS collector_ns, spans.error_ns
        + CASE WHEN spans.until_ns IS NULL THEN (rows.start_ns - spans.from_ns) // 10000 ELSE 0 END AS collector_error_ns
FROM (SELECT *, substr(clock, 10) AS clock_node FROM steps WHERE clock LIKE 'realtime@%') AS rows
ASOF LEFT JOIN clock_spans AS spans ON rows.clock_node = spans.node AND rows.start_ns >= spans.from_ns;

CREATE OR REPLACE VIEW collectives_on_one_clock AS
SELECT
    rows.*, rows.start_ns - spans.offset_ns AS collector_ns, spans.error_ns
        + CASE WHEN spans.until_ns IS NULL THEN (rows.start_ns - spans.from_ns) // 10000 ELSE 0 END AS collector_error_ns
FROM (SELECT *, substr(clock, 10) AS clock_node FROM collectives WHERE clock LIKE 'realtime@%') AS rows
ASOF LEFT JOIN clock_spans AS spans ON rows.clock_node = spans.node AND rows.start_ns >= spans.from_ns;

-- Ten minutes of each GPU, and of the steps of each rank: there before and long after readings and steps are let go. CASE keeps
-- DuckDB from gathering the rows in memory, and not the few times, where its guess of how many rows a condition leaves is low.
CREATE OR REPLACE VIEW gpu_history AS
SELECT * FROM device_history
WHERE CASE WHEN (time_ns, updated_ns) IN (SELECT (time_ns, max(updated_ns)) FROM device_history GROUP BY time_ns) THEN true ELSE false END;

CREATE OR REPLACE VIEW step_history AS
SELECT * FROM steps_history
WHERE CASE WHEN (time_ns, updated_ns) IN (SELECT (time_ns, max(updated_ns)) FROM steps_history GROUP BY time_ns) THEN true ELSE false END;

-- Ten minutes of each kernel in each job: how its ranks compare. A list has the mean on each rank.
CREATE OR REPLACE VIEW kernel_history AS
SELECT * FROM kernels_history
WHERE CASE WHEN (time_ns, updated_ns) IN (SELECT (time_ns, max(updated_ns)) FROM kernels_history GROUP BY time_ns) THEN true ELSE false END;

-- Time of each kernel on each rank, all steps together. `share` is of the rank's kernel time.
CREATE OR REPLACE VIEW kernel_totals AS
WITH names AS (
    SELECT kernel_id, any_value(name) AS name FROM kernel_names GROUP BY kernel_id
), totals AS (
    SELECT
        job, rank, kernel_id, any_value(category) AS category,
        TRY_CAST(sum(count) AS BIGINT) AS kernels, TRY_CAST(sum(sum_ns) AS BIGINT) AS total_ns,
        sum(sum_ns) / nullif(sum(count), 0) AS mean_ns, min(min_ns) AS min_ns, max(max_ns) AS max_ns
    FROM kernel_clusters GROUP BY job, rank, kernel_id
)
SELECT
    job, rank, coalesce(name, CAST(totals.kernel_id AS VARCHAR)) AS kernel, category, kernels, total_ns, mean_ns,
    min_ns, max_ns, total_ns / nullif(sum(total_ns) OVER (PARTITION BY job, rank), 0) AS share
FROM totals LEFT JOIN names ON names.kernel_id = totals.kernel_id;

-- Wall time of each step over the ranks of its job.
CREATE OR REPLACE VIEW iteration_times AS
SELECT
    job, step, CAST(count(DISTINCT rank) AS BIGINT) AS ranks, min(duration_ns) AS min_ns,
    median(duration_ns) AS median_ns, max(duration_ns) AS max_ns, arg_max(rank, duration_ns) AS slowest_rank
FROM steps WHERE scope = 'step' AND step IS NOT NULL
GROUP BY job, step;

-- Collectives: how many of each operation on each communicator. A row without `count` stands for one operation. Sources stay
-- apart in these three: a log and a table of results may speak of the same operations.
CREATE OR REPLACE VIEW collective_counts AS
SELECT job, source, communicator, operation, TRY_CAST(sum(coalesce(count, 1)) AS BIGINT) AS count
FROM collectives GROUP BY job, source, communicator, operation;

-- Collectives: bytes moved by each operation. Operations whose size is not known are counted apart.
CREATE OR REPLACE VIEW collective_sizes AS
SELECT
    job, source, operation,
    TRY_CAST(sum(coalesce(count, 1)) FILTER (WHERE message_bytes IS NOT NULL) AS BIGINT) AS count,
    sum(CAST(message_bytes AS HUGEINT) * coalesce(count, 1))
        / sum(coalesce(count, 1)) FILTER (WHERE message_bytes IS NOT NULL) AS average_bytes,
    min(message_bytes) AS min_bytes, max(message_bytes) AS max_bytes,
    TRY_CAST(sum(CAST(message_bytes AS HUGEINT) * coalesce(count, 1)) AS BIGINT) AS total_bytes,
    TRY_CAST(coalesce(sum(coalesce(count, 1)) FILTER (WHERE message_bytes IS NULL), 0) AS BIGINT) AS unknown_size_count
FROM collectives GROUP BY job, source, operation;

-- Collectives: how often each message size was used by each operation on each communicator.
CREATE OR REPLACE VIEW collective_size_distribution AS
SELECT job, source, communicator, operation, message_bytes, TRY_CAST(sum(coalesce(count, 1)) AS BIGINT) AS count
FROM collectives GROUP BY job, source, communicator, operation, message_bytes;

-- Energy: what each GPU was doing and what it drew, the newest account of each window. Old windows are merged by the hour.
CREATE OR REPLACE VIEW energy_states AS
SELECT * FROM energy_intervals QUALIFY updated_ns = max(updated_ns) OVER (
    PARTITION BY node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)), window_ns, merged IS NULL
);

-- Energy: the same with the cause of every piece of an idle time: what went before the whole of it. Half an hour of it is
-- taken for a session that was forgotten.
CREATE OR REPLACE VIEW energy_causes AS
WITH numbered AS (
    SELECT *, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) AS gpu, sum(CAST(NOT continued AS INTEGER)) OVER (
        PARTITION BY node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)), state, merged IS NULL ORDER BY start_ns
    ) AS run
    FROM energy_states
)
SELECT * REPLACE (
    CASE WHEN state <> 'execution_idle' OR merged IS NOT NULL THEN cause WHEN sum(seconds) OVER whole >= 1800 THEN 'forgotten_session'
        ELSE max(cause) OVER whole END AS cause
)
FROM numbered WINDOW whole AS (PARTITION BY node, gpu, state, run, merged IS NULL);

-- Energy: each time a GPU was idle with a program on it for 5 s or more, whole however it was cut.
CREATE OR REPLACE VIEW idle_intervals AS
SELECT
    node, gpu, any_value(gpu_name) AS gpu_name, any_value(job) AS job, any_value("user") AS "user", min(start_ns) AS start_ns,
    max(end_ns) AS end_ns, sum(seconds) AS seconds, sum(joules) AS joules, sum(error_joules) AS error_joules,
    any_value(cause) AS cause
FROM energy_causes WHERE state = 'execution_idle' AND merged IS NULL GROUP BY node, gpu, run;

-- Power: how long each GPU was held back by each reason, by ten minutes. A counter that begins anew counts from there on.
CREATE OR REPLACE VIEW throttle_time AS
WITH counters AS (
    UNPIVOT (
        SELECT node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) AS gpu, gpu_name, source, job, time_ns,
            power_cap_ns AS power_cap, thermal_ns AS thermal, hardware_thermal_ns AS hardware_thermal,
            power_brake_ns AS power_brake, sync_boost_ns AS sync_boost
        FROM device_samples
    ) ON power_cap, thermal, hardware_thermal, power_brake, sync_boost INTO NAME reason VALUE held_ns
), grown AS (
    SELECT *, held_ns - lag(held_ns) OVER reading AS growth_ns, time_ns - lag(time_ns) OVER reading AS passed_ns
    FROM counters WINDOW reading AS (PARTITION BY node, gpu, source, reason ORDER BY time_ns)
)
SELECT
    node, gpu, any_value(gpu_name) AS gpu_name, job, reason, time_ns // 600000000000 * 600000000000 AS window_ns,
    TRY_CAST(sum(CASE WHEN growth_ns >= 0 THEN growth_ns ELSE least(held_ns, passed_ns) END) AS BIGINT) AS held_ns,
    TRY_CAST(sum(passed_ns) AS BIGINT) AS covered_ns, count(*) FILTER (growth_ns < 0) AS resets
FROM grown WHERE passed_ns > 0 GROUP BY node, gpu, source, job, reason, window_ns
QUALIFY source = min(source) OVER (PARTITION BY node, gpu, reason);
