// The Video tab. It holds no data: everything comes from Airflow's public REST API, read with the session of the
// person who looks at it. What comes from there is only ever set as text, or as an http(s) source of a <video>.

const API = "../api/v2/";
const REFRESH_EVERY = 5; // seconds, while the task is not done
const AT_A_TIME = 12; // cards of a gallery
const ENTRIES = 100; // XComs that one request lists at most
const DAY = 24 * 3600; // seconds that a URL of the service lives, about

const OPERATORS = new Set([
  "ManxueVideoSensor",
  "ManxueVideoBatchSensor",
  "ManxueCreateVideoOperator",
  "ManxueToObjectStorageOperator",
]);
const KEYS = new Set(["return_value", "video_task_id", "size", "content_type", "sha256"]);
const LINKS = ["Watch video", "Saved video"]; // by these a subclass of one of the operators is known
const DONE = new Set(["success", "failed", "skipped", "upstream_failed", "removed"]);
const WORDS = {
  null: "has not started",
  deferred: "waits in the triggerer",
  running: "runs",
  up_for_reschedule: "waits for its next poll",
  up_for_retry: "waits for its next try",
  success: "succeeded",
  failed: "failed; its log says why",
  skipped: "was skipped",
  upstream_failed: "did not run, since a task before it failed",
};

const byId = (id) => document.getElementById(id);

// --- Airflow's API ---------------------------------------------------------------------------------------------

class ApiError extends Error {
  constructor(status) {
    super(`HTTP ${status}`);
    this.status = status;
  }
}

async function api(parts, query = {}) {
  const url = API + parts.map(encodeURIComponent).join("/") + "?" + new URLSearchParams(query);
  const answer = await fetch(url, { headers: { Accept: "application/json" }, redirect: "error" });
  if (!answer.ok) throw new ApiError(answer.status);
  return answer.json();
}

async function unlessMissing(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.status === 404) return undefined;
    throw error;
  }
}

const address = new URLSearchParams(location.search);
const run = ["dags", address.get("dag_id") ?? "", "dagRuns", address.get("run_id") ?? "", "taskInstances"];
const task = [...run, address.get("task_id") ?? ""];
// On a task that is not mapped, Airflow leaves the placeholder as it is.
const mapIndex = /^\d+$/.test(address.get("map_index") ?? "") ? Number(address.get("map_index")) : -1;

const taskInstance = () => unlessMissing(api(mapIndex < 0 ? task : [...task, mapIndex]));

async function xcom(taskId, key, index) {
  const entry = await unlessMissing(api([...run, taskId, "xcomEntries", key], { map_index: index }));
  return entry && decoded(entry.value);
}

// Airflow answers with a value as it is stored, which is JSON inside of JSON.
function decoded(value) {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

async function isOurs(instance) {
  if (OPERATORS.has(instance.operator)) return true;
  const links = await unlessMissing(api([...task, "links"], { map_index: instance.map_index }));
  return LINKS.some((name) => name in (links?.extra_links ?? {}));
}

// --- what there is to show -------------------------------------------------------------------------------------

// The videos of one task instance, each as the service described it, or as far as it is known.
async function videosOf(instance) {
  const found = await xcomsOf(instance);
  const { return_value: result, video_task_id: ordered } = found;
  if (Array.isArray(result)) return result.map((one) => ({ ...described(one), instance, batch: true }));
  if (result && typeof result === "object") return [{ ...described(result), instance }];
  const { video_task_id: asked, model } = instance.rendered_fields ?? {};
  const id = [ordered, asked].find((one) => typeof one === "string");
  if ("sha256" in found) {
    const { size, content_type, sha256 } = found;
    return [{ id, saved: result, size, content_type, sha256, instance }];
  }
  return [{ id: id ?? result, model, instance }];
}

const described = ({ id, status, error, actualDuration, model, created, video_url }) => ({
  id, status, error, actualDuration, model, created, video_url,
});

async function xcomsOf({ task_id, map_index }) {
  const { xcom_entries: entries } = await api([...run, task_id, "xcomEntries"], { map_index, limit: ENTRIES });
  const keys = entries.map(({ key }) => key).filter((key) => KEYS.has(key));
  const values = await Promise.all(keys.map((key) => xcom(task_id, key, map_index)));
  return Object.fromEntries(keys.map((key, index) => [key, values[index]]));
}

// Where the videos of this run were saved, by id, and whether that is all. Only the save operator stores a checksum.
async function readCopies() {
  const query = { xcom_key: "sha256", limit: ENTRIES };
  const { xcom_entries: entries, total_entries: count } = await api([...run, "~", "xcomEntries"], query);
  const pairs = entries.map(({ task_id, map_index }) =>
    Promise.all([xcom(task_id, "video_task_id", map_index), xcom(task_id, "return_value", map_index)]),
  );
  const places = (await Promise.all(pairs)).filter(([id]) => id !== undefined).map(([id, uri]) => [String(id), uri]);
  return { places: new Map(places), complete: count <= entries.length };
}

// --- words -----------------------------------------------------------------------------------------------------

const pad = (number) => String(number).padStart(2, "0");

function spell(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${pad(minutes)} min`;
  return minutes ? `${minutes} min ${pad(whole % 60)} s` : `${whole} s`;
}

const secondsSince = (date) => (Date.now() - Date.parse(date)) / 1000;

function moment(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) || !seconds ? undefined : date.toLocaleString();
}

const stateOf = ({ state }) => WORDS[state] ?? `is ${state}`;

function facts(video) {
  const { start_date: start, end_date: end, state } = video.instance;
  const waited = start && end && DONE.has(state) && video.size === undefined;
  return {
    Status: video.status,
    Error: video.error,
    Length: video.actualDuration == null ? undefined : `${video.actualDuration} s`,
    Model: video.model,
    Created: moment(Number(video.created)),
    Waited: waited ? spell((Date.parse(end) - Date.parse(start)) / 1000) : undefined,
    "Saved as": video.saved,
    Size: video.size == null ? undefined : `${Number(video.size).toLocaleString()} bytes`,
    Type: video.content_type,
    "SHA-256": video.sha256,
  };
}

function whyItDoesNotPlay(video) {
  const expired = secondsSince(video.instance.end_date) > DAY;
  const reason = expired
    ? "The URL of this video has expired: the service's URLs live about a day."
    : "This video does not play. Its URL may have expired (the service's URLs live about a day), or this browser does not reach its host.";
  if (video.saved) return `${reason} A copy is saved as ${video.saved}`;
  return video.isNotSaved ? `${reason} No saved copy was found in this run.` : reason;
}

// --- the page --------------------------------------------------------------------------------------------------

function playable(url) {
  try {
    return ["http:", "https:"].includes(new URL(url).protocol) ? url : undefined;
  } catch {
    return undefined;
  }
}

function cardOf(video, label = "") {
  const card = byId("video-template").content.cloneNode(true).firstElementChild;
  card.prepend(element(label ? "h3" : "h2", [label, video.id ?? "Video"].filter(Boolean).join(" ")));
  const player = card.querySelector("video");
  const source = playable(video.video_url);
  if (source) {
    player.setAttribute("aria-label", `Video ${video.id}`);
    player.src = source;
    player.hidden = false;
    player.addEventListener("error", () => {
      player.hidden = true;
      video.broken = true;
      describe(card, video);
    });
  }
  describe(card, video);
  return card;
}

function describe(card, video) {
  const notice = card.querySelector(".notice");
  notice.hidden = !video.broken;
  if (video.broken) notice.textContent = whyItDoesNotPlay(video);
  const rows = Object.entries(facts(video)).filter(([, value]) => value !== undefined && value !== null && value !== "");
  card.querySelector("dl").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

// An element with a text, in which a line may end after each slash, as a long address needs it.
function element(name, text) {
  const made = document.createElement(name);
  made.append(...String(text).split(/(?<=\/)/).flatMap((part) => [part, document.createElement("wbr")]));
  return made;
}

const shown = []; // pairs of card and video, to which the saved copies are added when they are known
let copies;

function show(place, video, label) {
  const card = cardOf(video, label);
  shown.push([card, video]);
  place.append(card);
}

async function addSavedCopies() {
  copies ??= readCopies();
  const { places, complete } = await copies;
  for (const [card, video] of shown) {
    video.saved ??= places.get(String(video.id));
    video.isNotSaved = complete && video.saved === undefined;
    describe(card, video);
  }
}

// A gallery grows by some cards at a time: `more(from)` returns the next pairs of video and label.
function showGallery(title, count, more) {
  const gallery = byId("gallery");
  const [list, button] = [gallery.querySelector("ul"), gallery.querySelector("button")];
  byId("gallery-title").textContent = title;
  gallery.hidden = false;
  let from = 0;
  const grow = async () => {
    const next = await more(from);
    for (const [video, label] of next) {
      const item = document.createElement("li");
      show(item, video, label);
      list.append(item);
    }
    from += AT_A_TIME;
    button.hidden = from >= count;
    await addSavedCopies();
  };
  button.onclick = () => grow().catch(complain);
  return grow();
}

const showBatch = (videos) =>
  showGallery(`${videos.length} videos`, videos.length, async (from) =>
    videos.slice(from, from + AT_A_TIME).map((video, index) => [video, `#${from + index + 1}`]),
  );

async function showMapped() {
  const list = (offset) => api([...task, "listMapped"], { limit: AT_A_TIME, offset, order_by: "map_index" });
  const first = await list(0);
  const count = first.total_entries;
  await showGallery(`All ${count} videos of this mapped task`, count, async (offset) => {
    const { task_instances: instances } = offset ? await list(offset) : first;
    const videos = await Promise.all(instances.map(videosOf));
    return instances.flatMap((instance, index) =>
      videos[index].map((video) => [{ status: stateOf(instance), ...video }, `[${instance.map_index}]`]),
    );
  });
}

function say(text) {
  const message = byId("message");
  message.textContent = text;
  message.hidden = !text;
}

function complain(error) {
  const refused = error.status === 401 || error.status === 403;
  say(
    refused
      ? `Airflow does not let you read the results of this task (${error.message}).`
      : `Airflow's API could not be read (${error.message}). Reload to try again.`,
  );
}

let timer;

function showWait(instance) {
  clearInterval(timer);
  const elapsed = byId("elapsed");
  const tick = () => (elapsed.textContent = `${spell(secondsSince(instance.start_date))} so far`);
  elapsed.hidden = DONE.has(instance.state) || !instance.start_date;
  if (elapsed.hidden) return;
  tick();
  timer = setInterval(tick, 1000);
}

function clear() {
  shown.length = 0;
  copies = undefined;
  byId("single").replaceChildren();
  byId("gallery").querySelector("ul").replaceChildren();
  byId("gallery").hidden = true;
}

async function showTask(instance) {
  const videos = await videosOf(instance);
  clear();
  const finished = videos.some((video) => video.video_url || video.saved);
  say(finished && instance.state === "success" ? "" : `The task ${stateOf(instance)}.`);
  showWait(instance);
  if (videos.some((video) => video.batch)) return showBatch(videos);
  if (videos[0].id !== undefined) show(byId("single"), videos[0]);
  return instance.map_index < 0 ? addSavedCopies() : showMapped();
}

async function main(before) {
  const instance = await taskInstance();
  if (!instance) {
    // The page of a mapped task as a whole belongs to none of its instances.
    say("");
    return showMapped();
  }
  if (before === undefined && !(await isOurs(instance))) {
    return say("This task does not come from the sd2_manxue provider, so there is no video to show.");
  }
  const now = `${instance.state} ${instance.try_number}`;
  if (now !== before) await showTask(instance);
  if (!DONE.has(instance.state)) setTimeout(() => main(now).catch(complain), REFRESH_EVERY * 1000);
}

// Airflow keeps the theme that was chosen in its UI here; "system" and nothing leave it to the browser.
function followTheme() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "system";
}

followTheme();
addEventListener("storage", followTheme);
main().catch(complain);
