-- Ten questions an operator asks of a day of 10,000 ranks, over the views and tables that users are given (views.sql). Written
-- before anything was tuned for them. Asked by tests/bench/collector.py, each by itself, through a worker of the collector, and
-- nothing is kept of an answer from one time to the next. A day is what the histories hold; questions 3 to 7 read the history of
-- kernels from end to end, 7 and 8 join power to kernels.

-- 1. Which ranks compute longer than the others of their job, how much, and since when?
WITH usual AS (
    SELECT job, time_ns, median(compute_ns) AS compute_ns FROM step_history GROUP BY job, time_ns
), late AS (
    SELECT job, rank, any_value(gpu_uuid) AS gpu_uuid, min(time_ns) AS since_ns, count(*) AS windows,
        avg(step_history.compute_ns / usual.compute_ns) AS ratio
    FROM step_history JOIN usual USING (job, time_ns)
    WHERE step_history.compute_ns > 1.05 * usual.compute_ns GROUP BY job, rank
)
SELECT * FROM late WHERE windows >= 10 ORDER BY ratio DESC LIMIT 20;

-- 2. How long is a step of each job, hour by hour, and how much of it waits for communication or data?
SELECT job, time_ns // 3600000000000 AS hour, avg(duration_ns) / 1e6 AS step_ms, max(max_ns) / 1e6 AS longest_ms,
    avg(exposed_communication_ns) / avg(duration_ns) AS exposed, avg(data_wait_ns) / avg(duration_ns) AS data_wait
FROM step_history GROUP BY job, hour ORDER BY job, hour;

-- 3. Which kernels take the time of each job, over the whole day?
SELECT job, kernel_id, any_value(category) AS category, sum(count) AS kernels, sum(sum_ns) / 1e9 AS seconds,
    sum(sum_ns) / sum(sum(sum_ns)) OVER (PARTITION BY job) AS share
FROM kernel_history GROUP BY job, kernel_id QUALIFY row_number() OVER (PARTITION BY job ORDER BY seconds DESC) <= 5
ORDER BY job, seconds DESC;

-- 4. Which kernels take longer in the last hour than in the hours before, and from which hour on?
WITH hours AS (
    SELECT job, kernel_id, time_ns // 3600000000000 AS hour, sum(sum_ns) / sum(count) AS mean_ns
    FROM kernel_history WHERE category = 'compute' GROUP BY job, kernel_id, hour
), usual AS (
    SELECT job, kernel_id, median(mean_ns) AS usual_ns, arg_max(mean_ns, hour) AS last_ns FROM hours GROUP BY job, kernel_id
)
SELECT job, kernel_id, last_ns / usual_ns AS growth, min(hour) FILTER (mean_ns > 1.03 * usual_ns) AS since_hour
FROM hours JOIN usual USING (job, kernel_id) GROUP BY job, kernel_id, last_ns, usual_ns
HAVING growth > 1.05 ORDER BY growth DESC LIMIT 20;

-- 5. Which rank is most often the slowest at the kernels of its job, on which GPU, and how far behind the median rank?
SELECT job, slowest_rank, slowest_gpu_uuid, count(*) AS times, count(DISTINCT kernel_id) AS kernels,
    avg(max_mean_ns / p50_mean_ns) AS ratio
FROM kernel_history WHERE category = 'compute' AND ranks > 1 GROUP BY job, slowest_rank, slowest_gpu_uuid
QUALIFY row_number() OVER (PARTITION BY job ORDER BY times DESC) = 1 ORDER BY times DESC LIMIT 20;

-- 6. What part of its kernel time does each job spend in communication, hour by hour?
SELECT job, time_ns // 3600000000000 AS hour, sum(sum_ns) FILTER (category = 'communication') / sum(sum_ns) AS communication,
    sum(sum_ns) FILTER (category IN ('memcpy', 'memset')) / sum(sum_ns) AS copies
FROM kernel_history GROUP BY job, hour ORDER BY job, hour;

-- 7. What does a second of compute kernels cost in energy, by job and hour?
WITH drawn AS (
    SELECT job, time_ns // 3600000000000 AS hour, sum(energy_joules) AS joules, avg(power_watts) AS watts
    FROM gpu_history WHERE job IS NOT NULL GROUP BY job, hour
), busy AS (
    SELECT job, time_ns // 3600000000000 AS hour, sum(sum_ns) / 1e9 AS seconds
    FROM kernel_history WHERE category = 'compute' GROUP BY job, hour
)
SELECT job, hour, watts, joules / 3.6e6 AS kilowatt_hours, joules / seconds AS joules_per_kernel_second
FROM drawn JOIN busy USING (job, hour) ORDER BY joules_per_kernel_second DESC LIMIT 50;

-- 8. In the last ten minutes of one job: which GPUs draw less than the others while their kernels take longer?
WITH kernels AS (
    SELECT gpu_uuid, any_value(rank) AS rank, sum(sum_ns) / sum(count) AS mean_ns
    FROM kernel_clusters WHERE job = 'job-07' AND category = 'compute' GROUP BY gpu_uuid
), power AS (
    SELECT gpu_uuid, avg(power_watts) AS watts, avg(sm_clock_mhz) AS clock_mhz
    FROM device_samples WHERE job = 'job-07' GROUP BY gpu_uuid
)
SELECT rank, gpu_uuid, mean_ns / median(mean_ns) OVER () AS kernel_ratio, watts / median(watts) OVER () AS power_ratio, clock_mhz
FROM kernels JOIN power USING (gpu_uuid) ORDER BY kernel_ratio DESC LIMIT 10;

-- 9. Which jobs wasted the most energy on GPUs that were held and did nothing, and what went before it?
SELECT job, cause, sum(joules) / 3.6e6 AS kilowatt_hours, sum(seconds) / 3600 AS gpu_hours, count(DISTINCT gpu_uuid) AS gpus
FROM energy_states WHERE state = 'execution_idle' GROUP BY job, cause ORDER BY kilowatt_hours DESC NULLS LAST LIMIT 20;

-- 10. Which links counted errors in the last ten minutes, and how many?
SELECT node, device, port, counter, max(value) - min(value) AS errors
FROM link_counters WHERE unit = 'errors' GROUP BY node, device, port, counter HAVING max(value) > min(value)
ORDER BY errors DESC LIMIT 20;
