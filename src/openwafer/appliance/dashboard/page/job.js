// The page of one job. It is built when the job is opened, and its parts are filled again with every look.
let opened = null;
function openJob(id) {
  closeJob();
  const page = { id, stop: new AbortController(), log: null, pictures: new Map(), points: 0, timeline: 0 };
  const section = (title, ...inside) => make("section", {}, make("h2", {}, title), inside);
  const at = (step) => `step ${whole(step)}`;
  const ago = (when, now) => (now - when < 1 ? "now" : `${took(now - when)} ago`);
  page.top = make("section", { class: "top" });
  page.actions = make("div", { class: "line" });
  page.told = make("p", { id: "told", role: "alert" });
  page.tiles = make("dl", {});
  page.loss = chart("Loss", { write: digits, across: at, none: "no step is done yet" });
  page.rate = chart("Samples a second", { write: digits, across: at, zero: true, none: "no step is done yet" });
  page.memory = chart("Memory of its processes", { write: bytes, binary: true, across: ago, zero: true, none: "not measured" });
  page.cores = chart("Cores busy", { write: digits, across: ago, zero: true, none: "not measured" });
  page.charts = [make("div", { class: "pair" }, page.loss.section, page.rate.section), make("div", { class: "pair" }, page.memory.section, page.cores.section)];
  page.roles = make("section", {});
  page.spans = timelinePart();
  page.plan = make("section", {});
  page.shots = make("div", { id: "pictures" });
  page.gallery = section("Pictures", page.shots);
  page.moments = make("section", {});
  page.sticks = true;
  page.log = make("pre", { id: "log", tabindex: 0, onscroll: () => { page.sticks = page.log.scrollTop + page.log.clientHeight >= page.log.scrollHeight - 8; } });
  page.logState = make("span", { class: "legend" });
  page.files = make("section", {});
  part("job").replaceChildren(page.top, page.tiles, ...page.charts, page.roles, page.spans.section, page.plan, page.gallery,
    make("div", { class: "pair" }, page.moments, page.files), make("section", {}, page.logState, make("h2", {}, "Log"), page.log));
  opened = page;
}
function closeJob() {
  if (!opened) return;
  opened.stop.abort();
  for (const { url } of opened.pictures.values()) URL.revokeObjectURL(url);
  part("job").replaceChildren();
  opened = null;
}
async function lookAtJob(id) {
  if (opened?.id !== id) openJob(id);
  const page = opened;
  let view;
  try {
    view = await askJson(jobPath(id, "/view"));
  } catch (error) {
    if (error.status !== 404 || page !== opened) throw error;
    closeJob();
    part("job").replaceChildren(make("section", {}, make("h2", {}, "No such job"), make("p", {}, "There is no job of this id, or it is another user's."), make("p", {}, make("a", { href: "#/" }, "All jobs"))));
    return;
  }
  if (page !== opened) return;
  page.view = view;
  about(view);
  document.title = `${view.job.spec.name || id} – openwafer`;
  showTop(page, view);
  showNumbers(page, view);
  showRoles(page, view);
  showPlan(page, view);
  showMoments(page, view);
  showFiles(page, view);
  if (!page.following) followLog(page, view);
  toEnd(page);
  const step = view.progress?.step ?? 0;
  if (step !== page.points) {
    const series = await askJson(jobPath(id, "/series?points=400"));
    if (page !== opened) return;
    page.points = step;
    showSeries(page, series);
  }
  if (view.timeline !== page.timeline) {
    page.timeline = view.timeline;
    page.spans.set(await askJson(jobPath(id, "/timeline")));
  }
  await showPictures(page, view);
}
async function act(page, work) {
  page.told.textContent = "";
  try {
    await work();
  } catch (error) {
    page.told.textContent = error instanceof Away ? "The node does not answer; nothing was changed." : error.message;
  }
  await look();
}
// Ending a job takes two clicks, the second within a few seconds.
function cancelButton(page) {
  const button = make("button", { type: "button", id: "cancel", onclick: () => {
    if (button.classList.toggle("bad")) {
      button.textContent = "Really cancel it?";
      setTimeout(() => { button.classList.remove("bad"); button.textContent = "Cancel job"; }, 5000);
    } else {
      act(page, () => tell(jobPath(page.id, "/cancel"), "POST", {}));
      button.textContent = "Cancel job";
    }
  } }, "Cancel job");
  return button;
}
function oneField(name, placeholder, button, take) {
  const input = make("input", { placeholder, size: 12, spellcheck: "false", "aria-label": name, autocomplete: "off" });
  return make("form", { onsubmit: (event) => { event.preventDefault(); if (input.value.trim()) take(input.value.trim(), () => { input.value = ""; }); } }, input, make("button", {}, button));
}
const priorityOf = (text) => (/^p[0-3]$/i.test(text) ? 100 * Number(text[1]) + 99 : /^\d{1,4}$/.test(text) ? Number(text) : null);
function actions(page, view) {
  const ended = view.job.ended !== null, path = jobPath(page.id);
  return [
    ended ? null : cancelButton(page),
    ended ? null : oneField("Priority", view.admin ? "p0 to p3, 0-399" : "p1 to p3, 100-399", "Set priority", (text, done) => act(page, async () => {
      const asked = priorityOf(text);
      if (asked === null) throw new Error(`${text} is no priority; give p0 to p3, or a number from 0 (first) to 399`);
      await tell(path, "PATCH", { priority: asked });
      done();
    })),
    oneField("Label", "name=value", "Add label", (text, done) => act(page, async () => {
      const at = text.indexOf("=");
      if (at < 1) throw new Error(`${text} is no label; write name=value`);
      await tell(path, "PATCH", { labels: { [text.slice(0, at)]: text.slice(at + 1) } });
      done();
    })),
    make("button", { type: "button", onclick: () => act(page, () => save(jobPath(page.id, "/export"), `${page.id}.tar.gz`)) }, "Export"),
  ];
}
function showTop(page, view) {
  const job = view.job;
  show(page.actions, [job.ended !== null, view.admin], () => actions(page, view));
  const reason = job.waits_for ? `Waits for ${job.waits_for}` : job.reason;
  if (!page.top.children.length) page.top.append(make("div", {}), page.actions, page.told);
  show(page.top.firstChild, [job, view.place, view.queued], () => [
    make("h2", {}, make("bdi", {}, job.spec.name || job.id)),
    make("div", { class: "line" }, stateMark(job.state), make("span", { class: "id" }, job.id), make("span", {}, `by ${job.user || "nobody"}`), make("span", {}, job.spec.kind), make("span", {}, priority(job.priority)),
      view.place ? make("span", {}, `${whole(view.place)} of ${whole(view.queued)} in the queue`) : null,
      job.systems.length ? make("span", {}, job.systems.join(", ")) : make("span", {}, several(job.spec.systems, "system")),
      job.spec.workflow ? make("span", { class: "id" }, job.spec.workflow) : null, job.ingress ? make("span", { class: "id" }, `at ${job.ingress}`) : null),
    make("div", { class: `reason ${job.state === "failed" ? "bad" : ""}` }, reason),
    make("div", {}, Object.entries(job.labels).map(([name, value]) => make("span", { class: "label", title: `${name}=${value}` }, `${name}=${value}`, make("button", { type: "button", "aria-label": `remove label ${name}`, onclick: () => act(page, () => tell(jobPath(page.id), "PATCH", { labels: { [name]: null } })) }, "×")))),
  ]);
}
function showNumbers(page, view) {
  const { job, progress } = view, done = progressOf(progress), ran = job.started ? (job.ended ?? view.at) - job.started : null;
  const used = view.roles.filter((role) => role.use), cores = used.map((role) => role.use.cores).filter((value) => value !== null);
  const memoryx = used.filter((role) => role.name.startsWith("memoryx")).reduce((sum, role) => sum + role.use.memory_bytes + role.use.shared_bytes, 0);
  page.tiles.replaceChildren(...[
    progress ? tile("step", whole(progress.step), progress.steps ? `of ${whole(progress.steps)}` : "") : null,
    progress && progress.loss !== null ? tile("loss", digits(progress.loss)) : null,
    progress?.samples_per_s ? tile("samples a second", digits(progress.samples_per_s)) : null,
    progress?.step_s ? tile("a step takes", took(progress.step_s)) : null,
    done?.left && job.ended === null ? tile("time left", took(done.left), null, "at this rate") : null,
    view.flops_per_s ? tile("arithmetic", ...flops(view.flops_per_s).split(" "), "plan's work, measured time") : null,
    cores.length ? tile("cores busy", digits(cores.reduce((a, b) => a + b, 0))) : null,
    job.spec.memoryx_bytes && tile("MemoryX", bytes(job.spec.memoryx_bytes), "reserved", memoryx ? `process ${bytes(memoryx)}, libraries included` : ""),
    tile(job.ended === null ? "runs for" : "ran", ran === null ? "-" : took(ran)),
    job.starts > 1 ? tile("starts", whole(job.starts)) : null,
    job.exit_status !== null ? tile(job.exit_status < 0 ? "ended by signal" : "exit status", String(Math.abs(job.exit_status))) : null,
    ...Object.entries(view.values).slice(0, 6).map(([name, value]) => tile(name, digits(value))),
  ].filter(Boolean));
  const over = (pick) => view.samples.map((sample) => [sample[0], pick(sample)]).filter((point) => point[1] !== null);
  const lines = [{ name: "all", color: "--accent", points: over((s) => s[1]) }];
  if (view.samples.some((sample) => sample[2])) lines.push({ name: "MemoryX with shared", color: "--second", points: over((s) => s[2]) });
  page.memory.set(lines);
  page.cores.set([{ name: "", color: "--third", points: over((s) => s[3]) }]);
  page.charts[0].hidden = !progress;
  page.charts[1].hidden = !view.samples.length;
}
function showSeries(page, series) {
  page.loss.set([
    { name: "training", color: "--accent", points: series.points.map(([first, last, least, mean, most, , , steps]) => (steps > 1 ? [(first + last) / 2, mean, least, most] : [last, mean])) },
    { name: "evaluation", color: "--second", dots: true, points: series.evaluations },
  ]);
  page.rate.set([{ name: "", color: "--third", points: series.points.filter((p) => p[6] > 0).map((p) => [p[1], p[5] / p[6]]) }]);
}
function showRoles(page, view) {
  page.roles.hidden = !view.roles.length;
  const columns = [
    ["Role", "", (role) => role.name], ["Own memory", "number", (role) => (role.use ? bytes(role.use.memory_bytes) : "-")], ["Shared", "number later", (role) => (role.use ? bytes(role.use.shared_bytes) : "-")],
    ["Planned", "number", (role) => (!role.planned_bytes ? "-" : bytes(role.planned_bytes) + (role.planned_disk_bytes ? ` + ${bytes(role.planned_disk_bytes)} on disk` : ""))],
    ["In", "number", (role) => perSecond(role.in_per_s)], ["Out", "number", (role) => perSecond(role.out_per_s)],
    ["Cores", "number later", (role) => (role.use && role.use.cores !== null ? role.use.cores.toFixed(2) : "-")],
    ["Disk read, written", "number later", (role) => (role.use && role.use.read_per_s !== null ? `${perSecond(role.use.read_per_s)}, ${perSecond(role.use.write_per_s)}` : "-")],
  ];
  const alone = view.roles.some((role) => role.use) && !view.roles.some((role) => role.use && role.planned_bytes !== null);
  show(page.roles, view.roles, () => [
    make("h2", {}, "Roles"),
    make("div", { class: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, columns.map(([title, kind]) => make("th", { class: kind, scope: "col" }, title)))),
      make("tbody", {}, view.roles.map((role) => make("tr", {}, columns.map(([, kind, cell]) => make("td", { class: kind }, cell(role)))))))),
    make("p", {}, `Memory, cores and disks are measured where a role has a process of its own${alone ? " (here all roles are threads of the coordinator)" : ""}; planned memory is predicted beyond Python and PyTorch; in and out are what the plan moves in a step times the measured steps a second.`),
  ]);
}
function showPlan(page, view) {
  const plan = view.plan;
  page.plan.hidden = !plan;
  if (plan) show(page.plan, plan, () => [
    make("h2", {}, "Plan"),
    make("p", {}, `${plan.model}: ${whole(plan.parameters)} trained parameters, ${bytes(plan.weight_bytes)} of weights, ${bytes(plan.record_bytes)} with optimizer state in ${plan.store === "ram" ? "RAM" : "files"}; ${several(plan.layers, "layer")}; ${plan.mode.replace("_", " ")} on ${several(plan.systems, "system")} (${several(plan.replicas, "replica")}, ${several(plan.stages, "stage")}); batch ${whole(plan.batch)} in ${several(plan.microbatches, "microbatch").replace("microbatchs", "microbatches")}; ${digits(plan.flops_per_step / 1e9)} GFLOP a step; ${bytes(plan.host_bytes)} predicted for all roles.`),
    make("details", { ontoggle: (event) => { if (event.target.open) readPlan(page, event.target); } }, make("summary", {}, "All of it"), make("pre", { class: "plain" }, "…")),
  ]);
}
async function readPlan(page, details) {
  try {
    details.querySelector("pre").textContent = plain(await (await ask(filePath(page.id, "run/plan.txt"))).text());
  } catch (error) {
    details.querySelector("pre").textContent = error.message || "The node does not answer.";
  }
}
function showMoments(page, view) {
  show(page.moments, view.moments, () => [make("h2", {}, "What happened"), make("div", { class: "wide capped" }, make("table", {}, make("tbody", {}, view.moments.toReversed().map((moment) => make("tr", {},
    make("td", { title: new Date(1000 * moment.at).toISOString() }, clock(moment.at)), make("td", {}, moment.kind === "state" ? stateMark(moment.text.split(":")[0]) : moment.kind), make("td", {}, moment.kind === "state" ? moment.text.split(": ").slice(1).join(": ") : moment.text))))))]);
}
function showFiles(page, view) {
  show(page.files, view.files.map((file) => [file.name, file.size]), () => [make("h2", {}, "Files"), make("div", { class: "wide capped" }, make("table", {}, make("tbody", {}, view.files.map((file) => make("tr", {},
    make("td", {}, make("a", { href: location.hash, onclick: (event) => { event.preventDefault(); act(page, () => save(filePath(page.id, file.name), file.name.split("/").at(-1))); } }, file.name)), make("td", { class: "number" }, bytes(file.size)))))))]);
}
async function showPictures(page, view) {
  const wanted = view.files.filter((file) => file.picture).toSorted((a, b) => a.name.localeCompare(b.name)).slice(0, 12);
  for (const file of wanted) {
    const known = page.pictures.get(file.name);
    if (known?.changed === file.changed) continue;
    const blob = await (await ask(filePath(page.id, file.name))).blob();
    if (page !== opened) return;
    const url = URL.createObjectURL(blob), figure = known?.figure ?? make("figure", {}, make("img", { alt: file.name }), make("figcaption", {}, file.name));
    figure.firstChild.src = url;
    if (known) URL.revokeObjectURL(known.url);
    else page.shots.append(figure);
    page.pictures.set(file.name, { changed: file.changed, url, figure });
  }
  page.gallery.hidden = !wanted.length;
}
// The log stays at its end until its reader scrolls up.
function toEnd(page) {
  if (page.sticks) page.log.scrollTop = page.log.scrollHeight;
}
const LOG_BYTES = 1 << 18, LOG_PIECES = 400;
function followLog(page, view) {
  page.following = true;
  const from = Math.max(0, view.log_bytes - LOG_BYTES);
  let skipping = from > 0;
  if (skipping) page.log.append(`[the first ${bytes(from)} are left out here; Export or Files has them all]\n`);
  page.logState.textContent = "following";
  follow(jobPath(page.id, "/log?follow=true"), from, page.stop.signal, (text) => {
    if (skipping) {
      const line = text.indexOf("\n");
      if (line < 0) return;
      text = text.slice(line + 1);
      skipping = false;
    }
    page.log.append(plain(text));
    while (page.log.childNodes.length > LOG_PIECES) page.log.firstChild.remove();
    toEnd(page);
  }).then(() => { if (page === opened) page.logState.textContent = "ended"; });
}
