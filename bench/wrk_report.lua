-- wrk's own report rounds everything to three digits; this adds the exact figures as one line of JSON.
-- No response() hook: it would make wrk collect every header, and the load generator must not be the slowest part.
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nREPORT {"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
    summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    e.connect, e.read, e.write, e.timeout, e.status))
end
