"use strict";
// Names, zones and messages come from other nodes: they only ever become text, never markup.

const EVERY = 1000; // Milliseconds between two looks, and how long an answer may take.
const PATIENCE = 3000;
const LARGE_LAG = 10; // Seconds; where there is no bound.
const SVG = "http://www.w3.org/2000/svg";
const KINDS = [
  ["primary", "Primary", "Primaries"],
  ["replica", "Replica", "Replicas"],
  ["router", "Router", "Routers"],
  ["other", "Other member", "Other members"],
];
const STATES = {
  serving: "serving", ready: "ready", not_serving: "not serving", not_ready: "not ready",
  down: "down", dead: "no sign of life", leaving: "gone for long", connecting: "connecting",
};
// Below the directory of the page, also where a proxy in front of it serves it without a last slash.
const WHERE = location.pathname.replace(/\/?$/, "/") + "status.json";

const byId = (id) => document.getElementById(id);
let last = null; // The last answer.
let silentSince = null;
let timer = 0;
let announced = "";
let isAsking = false;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((one) => one !== null && one !== ""));
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

function plural(count, one, many) {
  return count === 1 ? one : many;
}

function seconds(value) {
  if (value < 1) return `${Number(value.toFixed(2))} s`;
  if (value < 10) return `${Number(value.toFixed(1))} s`;
  if (value < 120) return `${value.toFixed(0)} s`;
  const whole = Math.floor(value);
  for (const [size, name, part, partName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"]]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${name} ${Math.floor((whole % size) / part)} ${partName}`;
  }
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

function clock(unix) {
  return `${new Date(unix * 1000).toISOString().slice(11, 19)} UTC`;
}

// A number stays on the line of its unit.
function unbroken(text) {
  return text.replace(/(\d) (s|min|h|d)\b/g, "$1\u00a0$2");
}

function rate(value) {
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)}/s`;
}

// Plots

function plot(values, { samples, bound = null, low = false, label }) {
  const width = 300, height = 60;
  const known = values.filter((one) => one !== null);
  const largest = known.length ? Math.max(...known) : 0;
  const shown = bound !== null && bound <= 4 * Math.max(largest, 0.25) ? bound : 0;
  const most = Math.max(low ? 1 : 0.5, largest, shown) * 1.12;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (low) svg.classList.add("low");
  const x = (index) => ((samples - values.length + index) / Math.max(1, samples - 1)) * width;
  const y = (value) => height - 1 - (value / most) * (height - 3);
  for (const [from, to] of runs(values, (one) => one === null)) {
    const left = x(from), right = x(Math.min(to, values.length - 1));
    svg.append(draw("rect", { class: "gap", x: left, y: 0, width: Math.max(1, right - left), height }));
  }
  for (const [from, to] of runs(values, (one) => one !== null)) {
    const points = values.slice(from, to).map((value, index) => `${x(from + index).toFixed(1)} ${y(value).toFixed(1)}`);
    const line = `M${points.join("L")}`;
    svg.append(draw("path", { class: "area", d: `${line}L${x(to - 1).toFixed(1)} ${height}L${x(from).toFixed(1)} ${height}Z` }));
    svg.append(draw("path", { class: "curve", d: points.length > 1 ? line : `${line}h1` }));
  }
  if (shown) svg.append(draw("path", { class: "bound", d: `M0 ${y(bound).toFixed(1)}H${width}` }));
  return [svg, most];
}

// Stretches `[from, to)` of values for which something holds.
function runs(values, holds) {
  const found = [];
  values.forEach((value, index) => {
    if (!holds(value)) return;
    const open = found[found.length - 1];
    if (open && open[1] === index) open[1] = index + 1;
    else found.push([index, index + 1]);
  });
  return found;
}

// Parts of the page

function showHead(now) {
  const role = { metastore: "metastore", metastore_read_replica: "read replica", metastore_router: "router" }[now.role];
  setText("who", now.node_id);
  setText("facts", `${role} of ${now.cluster_id} · metastore-proxy ${now.version} · up ${seconds(Math.max(0, now.time - now.started))}`);
  const trouble = now.findings.length ? `${now.findings.length} ✕ ` : "";
  const title = `${trouble}${now.node_id} · metastore-proxy`;
  if (document.title !== title) document.title = title;
}

function showVerdict(now) {
  const isOld = silentSince !== null;
  const found = [...now.findings];
  if (isOld) {
    found.unshift({
      id: "silent", severity: "error", since: silentSince / 1000,
      text: "this node does not answer; what is shown below is what it last said",
      advice: "it is asked again every second; see whether its process runs and what its log ends with",
    });
  }
  const errors = found.filter((one) => one.severity === "error").length;
  const worst = errors ? "error" : found.length ? "warning" : "good";
  const mark = { good: "● All is well. ", warning: "▲ ", error: "✕ " }[worst];
  const title = isOld ? "✕ No answer from this node." : `${mark}${sentence(now.summary)}`;
  byId("verdict").className = worst;
  setText("verdict-title", title);
  const time = isOld ? Date.now() / 1000 : now.time;
  byId("findings").replaceChildren(
    ...found.map((one, index) => finding(one, time, index > 0 && found[index - 1].advice === one.advice)));
  const key = found.map((one) => `${one.severity}/${one.id}`).join(" ");
  if (key !== announced) {
    // Only what is new is read out, not each second of a lag.
    announced = key;
    setText("said", [title, ...found.map((one) => one.text)].join(". "));
  }
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
}

function finding(one, time, isSaid) {
  const isError = one.severity === "error";
  const what = make("p", "what", make("span", "mark", isError ? "✕ Error: " : "▲ Warning: "), unbroken(one.text));
  const since = one.since ? make("p", "small dim", `since ${clock(one.since)}, for ${seconds(Math.max(0, time - one.since))}`) : null;
  const item = make("li", isError ? "error" : "warning", what);
  if (one.advice && !isSaid) item.append(make("p", "do", one.advice));
  if (since) item.append(since);
  return item;
}

function showTopology(now) {
  const groups = KINDS.map(([kind, one, many]) => [kind, one, many, now.nodes.filter((node) => node.kind === kind)]);
  const sections = groups
    .filter(([kind, , , nodes]) => nodes.length || kind === "primary" || kind === "replica")
    .map(([kind, one, many, nodes]) => {
      const title = make("h2", "", nodes.length === 1 ? one : `${many} (${nodes.length})`);
      title.id = `group-${kind}`;
      const list = make("ul", "cards", ...nodes.map((node) => card(node, now)));
      const section = make("section", kind === "other" ? "whole" : "", title, nodes.length ? list : make("p", "dim", "none known"));
      section.setAttribute("aria-labelledby", title.id);
      return section;
    });
  if (now.nodes_left_out) sections.push(make("p", "whole dim", `and ${now.nodes_left_out} more`));
  byId("topology").replaceChildren(...sections);
}

const SHORT = {
  too_old: "too old", unknown_lag: "lag unknown", filling: "takes reads, bit by bit", ejected: "left alone",
  standby: "in recovery", foreign: "foreign database", eligible: "",
};

function stateOf(node) {
  if (node.eligible && node.state === "serving") return node.kind === "primary" ? "takes writes" : "takes reads";
  return (node.state === "serving" && SHORT[node.reason]) || STATES[node.state] || node.state;
}

function level(node, bound) {
  if (["down", "dead"].includes(node.state)) return "error";
  if (node.kind === "replica" && node.lag > Math.max(bound, node.lag_is_coarse ? LARGE_LAG : 0)) return "warning";
  if (node.reason === "filling") return "good";
  if (["not_serving", "not_ready", "connecting"].includes(node.state) || node.eligible === false) return "warning";
  return node.state === "leaving" ? "" : "good";
}

function card(node, now) {
  const how = level(node, now.max_lag === undefined ? LARGE_LAG : now.max_lag);
  const mark = { good: "● ", warning: "▲ ", error: "✕ " }[how] || "";
  const name = make("h3", "name", node.name, node.is_self ? make("span", "dim small", " (this node)") : "");
  const top = make("div", "top", name, make("span", "state", `${mark}${stateOf(node)}`));
  const item = make("li", `card ${how}`, top);
  item.dataset.node = node.name;
  if (node.verdict && !node.eligible) item.append(make("p", "verdict small", sentence(node.verdict).slice(0, -1)));
  if (node.kind === "replica") item.append(...lag(node, now));
  item.append(pairs(node));
  return item;
}

function lag(node, now) {
  const isKnown = node.lag !== undefined;
  const text = isKnown ? seconds(node.lag) : "unknown";
  const bound = now.max_lag === undefined ? null : now.max_lag;
  const samples = 180;
  const label = `lag of ${node.name} over the last three minutes, now ${text}`;
  const [svg, most] = plot(node.lag_history, { samples, bound, label });
  return [
    make("p", "lag", make("span", "dim small", isKnown ? "data behind by at most" : "data behind by"), make("b", "", text)),
    svg,
    make("p", "scale", make("span", "", "3 min ago"), make("span", "", `top: ${seconds(most)}${bound === null ? "" : `, bound: ${seconds(bound)}`}`), make("span", "", "now")),
  ];
}

function pairs(node) {
  const told = make("p", "pairs");
  const add = (name, value) => told.append(make("span", "", `${name} `, make("b", "", value)));
  if (node.calls_per_second !== undefined) add("calls", rate(node.calls_per_second));
  if (node.in_flight !== undefined) add("in flight", String(node.in_flight));
  if (node.latency !== undefined) add("latency", `${(node.latency * 1000).toFixed(1)} ms`);
  if (node.kind === "other" && node.services) add("services", node.services);
  if (node.zone) add("zone", node.zone);
  if (node.version) add("version", node.version);
  if (node.grpc_address) add("gRPC", node.grpc_address);
  if (node.rest_address) add("REST", node.rest_address);
  return told;
}

function showCalls(now) {
  const names = { replica: "to replicas", primary: "to the primary", fallback: "fallback to it", stale: "stale answers", served: "answered here" };
  byId("routes").replaceChildren(...now.routes.map((one) => {
    const failed = one.failed_per_second >= 0.05 ? make("span", "failed", ` ${rate(one.failed_per_second)} fail`) : null;
    const head = make("p", "rate", make("span", "", names[one.route] || one.route, failed), make("b", "", rate(one.per_second)));
    const [svg] = plot(one.history, { samples: 180, low: true, label: `calls per second ${names[one.route] || one.route} over the last three minutes` });
    const item = make("li", "", head, svg);
    item.dataset.route = one.route;
    return item;
  }));
  const limits = [];
  const add = (name, ...value) => limits.push(make("dt", "", name), make("dd", "", ...value));
  const guard = now.protection;
  if (guard) {
    const limit = guard.fallback_limit;
    const bar = make("meter");
    if (limit) Object.assign(bar, { max: limit, high: limit * 0.8, value: guard.fallbacks, title: "part of the cap in use" });
    bar.setAttribute("aria-label", "fallback cap in use");
    add("Fallback cap", limit ? bar : null, limit === undefined ? "no limit, for there is no replica" : ` ${guard.fallbacks} of ${limit} in use`);
    add("Retry budget", `${guard.retry_budget} ${plural(guard.retry_budget, "attempt", "attempts")}`);
    add("When no primary answers", guard.serve_stale ? "replicas over the bound answer (stale)" : "reads over the bound fail");
    add("Bound of the lag", now.max_lag === undefined ? "none (proxy.max_lag)" : seconds(now.max_lag));
  }
  byId("limits").replaceChildren(...limits);
}

function showSelf(now) {
  const rows = [];
  const add = (name, value, isBad = false) => rows.push(make("dt", "", name), make("dd", isBad ? "bad" : "", value));
  add("Readiness", now.draining ? "draining" : now.ready ? "ready" : "not ready", !now.ready);
  for (const one of now.conditions) add(one.name, one.reason || "ok", Boolean(one.reason));
  const members = now.members;
  add("Gossip", members ? `${members.live} live, ${members.ready} ready, ${members.dead} dead, ${members.zombie} about to be forgotten` : "off");
  byId("conditions").replaceChildren(...rows);
  setText("yaml", now.config);
}

function isBeingCopied() {
  const chosen = getSelection();
  return chosen !== null && !chosen.isCollapsed && byId("topology").contains(chosen.anchorNode);
}

function show() {
  if (last === null) return;
  byId("main").hidden = false;
  document.body.classList.toggle("old", silentSince !== null);
  showHead(last);
  showVerdict(last);
  if (silentSince !== null) return;
  if (!isBeingCopied()) showTopology(last);
  showCalls(last);
  showSelf(last);
}

// Asking

async function ask() {
  if (isAsking) return;
  isAsking = true;
  const giveUp = new AbortController();
  const bound = setTimeout(() => giveUp.abort(), PATIENCE);
  try {
    const answer = await fetch(WHERE, { signal: giveUp.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    last = await answer.json();
    silentSince = null;
    setText("live", `live, ${clock(last.time)}`);
  } catch (error) {
    silentSince = silentSince || Date.now();
    const since = clock(silentSince / 1000);
    setText("live", last === null ? `no answer since ${since}` : `no answer since ${since}; last seen ${clock(last.time)}`);
    document.body.classList.add("old");
  } finally {
    clearTimeout(bound);
    isAsking = false;
  }
  show();
}

function schedule() {
  clearInterval(timer);
  document.body.classList.toggle("paused", document.hidden);
  if (document.hidden) {
    setText("live", "paused while hidden");
    return;
  }
  timer = setInterval(ask, EVERY);
  ask();
}

document.addEventListener("visibilitychange", schedule);
schedule();
