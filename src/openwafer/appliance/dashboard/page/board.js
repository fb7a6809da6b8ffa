// The cluster map and the table of jobs.
const STATES = ["running", "initializing", "scheduled", "queued", "succeeded", "failed", "cancelled"];
const filters = { state: [], user: "", label: "", text: "", limit: 100 };
const bandOf = (index) => `t${index % 5}`;
const titleOf = (job) => (job.name || job.id ? job.name || job.id : "another user's job");
const linkOf = (job) => (job.id ? make("a", { class: "name", href: `#/job/${job.id}`, title: titleOf(job) }, titleOf(job)) : make("span", { class: "name" }, titleOf(job)));
function filterQuery() {
  const query = new URLSearchParams();
  for (const state of filters.state) query.append("state", state);
  for (const name of ["user", "label", "text"]) if (filters[name]) query.set(name, filters[name]);
  if (filters.limit !== 100) query.set("limit", filters.limit);
  return query.toString();
}
function readFilters(text) {
  const query = new URLSearchParams(text);
  filters.state = query.getAll("state").filter((state) => STATES.includes(state));
  for (const name of ["user", "label", "text"]) filters[name] = query.get(name) ?? "";
  filters.limit = Math.min(2000, Math.max(1, Number(query.get("limit")) || 100));
  for (const name of ["label", "text"]) if (part(name) !== document.activeElement) part(name).value = filters[name];
}
function filtered() {
  const query = filterQuery();
  history.replaceState(null, "", query ? `#/?${query}` : "#/");
  look();
}
let typing = null;
function prepareBoard() {
  part("states").append(...STATES.map((state) => make("button", { type: "button", "data-state": state, onclick: () => {
    filters.state = filters.state.includes(state) ? filters.state.filter((other) => other !== state) : [...filters.state, state];
    filtered();
  } }, state)));
  part("user").addEventListener("change", () => { filters.user = part("user").value; filtered(); });
  for (const name of ["label", "text"]) part(name).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { filters[name] = part(name).value.trim(); filtered(); }, 250);
  });
  part("more").addEventListener("click", () => { filters.limit = Math.min(2000, filters.limit + 200); filtered(); });
}
const tile = (title, value, about, below) => make("div", {}, make("dt", {}, title), make("dd", {}, value, about ? make("small", {}, ` ${about}`) : null, below ? make("small", { class: "below" }, below) : null));
function progressOf(progress) {
  if (!progress) return null;
  const left = progress.steps && progress.step_s ? (progress.steps - progress.step) * progress.step_s : null;
  return { share: progress.steps ? progress.step / progress.steps : null, left };
}
async function lookAtBoard() {
  const query = new URLSearchParams();
  for (const state of filters.state) query.append("state", state);
  for (const name of ["user", "text"]) if (filters[name]) query.set(name, filters[name]);
  // A label is asked for when it is whole; what is being typed is none yet.
  if (/^[^=]+=/.test(filters.label)) query.set("label", filters.label);
  query.set("limit", filters.limit);
  const view = await askJson(`/v1/board?${query}`);
  if (route().job !== null) return;
  document.title = "openwafer";
  about(view);
  showTiles(view);
  showSystems(view);
  showHosts(view);
  showHeld(part("slots"), "Compile slots", view, view.resources[0], (holder) => holder.compile_slots, whole);
  showHeld(part("memoryx"), `MemoryX (${view.memoryx})`, view, view.resources[2], (holder) => holder.memoryx_bytes, bytes);
  showJobs(view);
}
function showTiles(view) {
  const count = (...states) => states.reduce((sum, state) => sum + (view.counts[state] ?? 0), 0);
  const [slots, systems, memoryx] = view.resources;
  show(part("tiles"), [view.counts, view.resources], () => [
    tile("systems in use", `${systems.total - systems.free}`, `of ${systems.total}`),
    tile("compile slots in use", `${slots.total - slots.free}`, `of ${slots.total}`),
    tile("MemoryX reserved", bytes(memoryx.total - memoryx.free), `of ${bytes(memoryx.total)}`),
    tile(view.admin ? "jobs running" : "your jobs running", whole(count("running", "initializing", "scheduled"))),
    tile(view.admin ? "jobs waiting" : "your jobs waiting", whole(count("queued", "created"))),
  ]);
}
function showSystems(view) {
  show(part("systems"), [view.systems, view.holders], () => view.systems.map((system) => {
    const holder = view.holders[system.holder], role = holder?.roles.find((other) => other.name === system.role);
    const facts = [];
    const fact = (name, value) => facts.push(make("span", {}, name), make("b", {}, value));
    if (role?.use) fact("memory", `${bytes(role.use.memory_bytes)}${role.planned_bytes ? `, ${bytes(role.planned_bytes)} planned` : ""}`);
    else if (role?.planned_bytes) fact("memory planned", bytes(role.planned_bytes));
    if (role?.use?.cores !== null && role?.use) fact("cores busy", role.use.cores.toFixed(1));
    if (role && role.in_per_s !== null) fact("weights, batches in", perSecond(role.in_per_s));
    if (role && role.out_per_s !== null) fact("gradients out", perSecond(role.out_per_s));
    const done = progressOf(holder?.progress);
    return make("div", { class: `system ${holder ? `held ${bandOf(system.holder)}` : ""} ${system.out_of_service ? "out" : ""}` },
      make("header", {}, make("h3", {}, system.name), holder ? stateMark(holder.state) : system.out_of_service ? null : make("span", {}, "free")),
      holder ? linkOf(holder) : null,
      holder?.user ? make("span", {}, holder.user, holder.progress ? `, step ${whole(holder.progress.step)}${holder.progress.steps ? ` of ${whole(holder.progress.steps)}` : ""}` : "") : null,
      done && done.share !== null ? make("div", { class: "bar thin" }, make("i", { width_share: done.share })) : null,
      facts.length ? make("div", { class: "facts" }, facts) : null,
      system.out_of_service ? make("span", {}, `out of service: ${system.out_of_service}`) : null);
  }));
}
function showHosts(view) {
  part("machines").hidden = !view.hosts.length;
  show(part("hosts"), [view.hosts, view.holders.map((holder) => [holder.id, holder.name])], () => view.hosts.map((host) => make("div", { class: "system host" },
    make("header", {}, make("h3", {}, host.name), make("span", {}, host.systems ? several(host.systems, "system") : "no system")),
    make("span", {}, host.address),
    make("ul", { class: "held-list" }, host.holders.map((index) => make("li", { class: bandOf(index) }, linkOf(view.holders[index])))))));
}
function showHeld(section, title, view, resource, amount, write) {
  const held = view.holders.map((holder, index) => [holder, index, amount(holder)]).filter((entry) => entry[2] > 0);
  show(section, [title, resource, held], () => [
    make("span", { class: "legend" }, `${write(resource.total - resource.free)} of ${write(resource.total)} taken`), make("h2", {}, title),
    make("div", { class: "bar" }, held.map(([, index, taken]) => make("i", { class: bandOf(index), width_share: taken / Math.max(1, resource.total) }))),
    make("ul", { class: "held-list" }, held.map(([holder, index, taken]) => {
      const used = holder.roles.filter((role) => role.use && role.name.startsWith("memoryx")).reduce((sum, role) => sum + role.use.memory_bytes + role.use.shared_bytes, 0);
      return make("li", { class: bandOf(index) }, linkOf(holder), make("b", {}, `${write(taken)}${write === bytes && used ? ` reserved, process ${bytes(used)}` : ""}`));
    })),
    held.length ? null : make("p", {}, "Nothing is taken."),
  ]);
}
const COLUMNS = [
  ["Job", "", (job) => [make("a", { class: "name", href: `#/job/${job.id}`, title: job.name || job.id }, job.name || job.id), make("span", { class: "id" }, job.id)]],
  ["State", "", (job, view) => [stateMark(job.state), job.place ? make("span", { class: "id" }, ` ${whole(job.place)} in the queue`) : null, whatOf(job, view)]],
  ["Progress", "tight later", (job) => (job.progress ? [job.progress.steps ? make("progress", { max: job.progress.steps, value: job.progress.step, "aria-label": "steps done" }) : null, ` ${whole(job.progress.step)}${job.progress.steps ? ` / ${whole(job.progress.steps)}` : ""}`] : null)],
  ["Loss", "number later", (job) => (job.progress ? digits(job.progress.loss) : null)],
  ["Samples/s", "number later", (job) => (job.progress?.samples_per_s ? digits(job.progress.samples_per_s) : null)],
  ["Systems", "number later", (job) => job.systems.length || job.asked_systems],
  ["User", "tight later", (job) => make("span", { class: "name" }, job.user)],
  ["Priority", "tight later", (job) => priority(job.priority)],
  ["Age", "number later", (job, view) => took(view.at - job.created)],
  ["Ran", "number", (job, view) => (job.started ? took((job.ended ?? view.at) - job.started) : null)],
  ["Labels", "labels later", (job) => Object.entries(job.labels).map(([name, value]) => make("span", { class: "label", title: `${name}=${value}` }, `${name}=${value}`))],
];
function whatOf(job) {
  const text = job.waits_for || (["failed", "cancelled"].includes(job.state) || job.restarts ? job.reason : "");
  return text ? make("span", { class: "what", title: text }, job.waits_for ? `waits for ${text}` : text) : null;
}
const rowsShown = new Map();
function showJobs(view) {
  for (const button of part("states").children) {
    const state = button.dataset.state, count = view.counts[state];
    button.setAttribute("aria-pressed", filters.state.includes(state));
    button.textContent = count ? `${state} ${whole(count)}` : state;
  }
  show(part("user"), [view.users, filters.user], () => ["", ...new Set([...view.users, filters.user].filter(Boolean))].map((name) => make("option", { value: name, selected: name === filters.user }, name || "everybody")));
  part("user").parentElement.hidden = !view.admin;
  show(part("labels"), view.labels, () => view.labels.map((label) => make("option", { value: label })));
  const table = part("jobs");
  show(table.tHead, COLUMNS.length, () => make("tr", {}, COLUMNS.map(([title, kind]) => make("th", { class: kind, scope: "col" }, title))));
  const wanted = view.jobs.map((job) => {
    const row = rowsShown.get(job.id) ?? make("tr", { "data-job": job.id }, COLUMNS.map(([, kind]) => make("td", { class: kind })));
    rowsShown.set(job.id, row);
    COLUMNS.forEach(([title, , cell], i) => show(row.cells[i], title === "Age" || title === "Ran" ? cell(job, view) : [title, job], () => cell(job, view)));
    return row;
  });
  const body = table.tBodies[0];
  if (wanted.length !== body.rows.length || wanted.some((row, i) => body.rows[i] !== row)) body.replaceChildren(...wanted);
  const kept = new Set(view.jobs.map((job) => job.id));
  for (const id of rowsShown.keys()) if (!kept.has(id)) rowsShown.delete(id);
  const asked = filters.state.length || filters.user || filters.label || filters.text;
  table.hidden = !view.jobs.length;
  part("none").textContent = view.jobs.length ? (view.more ? `The first ${whole(view.jobs.length)} are shown.` : "") : asked ? "No job is like that." : "There are no jobs yet. wafer submit recipes/gpt.py makes one.";
  part("more").hidden = !view.more;
}
