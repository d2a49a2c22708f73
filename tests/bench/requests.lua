-- wrk's requests: never two alike, so that a cache of whole heads gains nothing.
-- Arguments: small | 4k | 64k | close

local kind, count = "small", 0
local body = ""

function init(args)
  kind = args[1] or kind
  math.randomseed(os.time())
  if kind == "64k" then body = string.rep("0123456789abcdef", 4096) end
end

local function unique()
  return string.format("%08x%08x", math.random(0, 0x7fffffff), count)
end

function request()
  count = count + 1
  local id = unique()
  local lines = {
    (kind == "64k" and "POST" or "GET") .. " /" .. (kind == "close" and "small" or kind) .. "/"
      .. math.random(0, 999) .. "?page=" .. (count % 7) .. " HTTP/1.1",
    "Host: api.example",
    "User-Agent: bench/1.0",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate",
    "X-Request-Id: " .. id,
    "Cookie: session=" .. id .. "; theme=dark",
    "Authorization: Bearer " .. id .. id,
  }
  if count % 2 == 0 then
    lines[#lines + 1] = "traceparent: 00-" .. id .. id .. "-" .. id .. "-01"
  end
  if kind == "4k" then
    lines[#lines + 1] = "Accept-Language: en-GB,en;q=0.9,de;q=0.8"
    lines[#lines + 1] = "Cache-Control: no-cache"
    lines[#lines + 1] = "Referer: https://shop.example/catalogue/" .. count
    lines[#lines + 1] = "X-Tenant: tenant-" .. (count % 100)
  elseif kind == "64k" then
    lines[#lines + 1] = "Content-Type: application/octet-stream"
    lines[#lines + 1] = "Content-Length: " .. #body
  elseif kind == "close" then
    lines[#lines + 1] = "Connection: close"
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"errors":%d,"p50":%.1f,"p99":%.1f}\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
