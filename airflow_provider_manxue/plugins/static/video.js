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
const KEYS = new Set(["return_value", "video_task_id", "size", "content_type", "sha256", "manxue_status"]);
const LINKS = ["Watch video", "Saved video"]; // by these a subclass of one of the operators is known
const DONE = new Set(["success", "failed", "skipped", "upstream_failed", "removed"]);
const WORDS = {
  null: "has not started",
  deferred: "waits in the triggerer",
  running: "runs",
  up_for_reschedule: "waits for its next poll",
  up_for_retry: "waits for its next try",
  success: "succeeded",
  failed: "failed",
  skipped: "was skipped",
  upstream_failed: "did not run, since a task before it failed",
};

// The errors of a task, by class: a title, the status of the video, and what to do. An order has other remedies.
const CLEAR = "then clear this task";
const ERRORS = {
  ManxueVideoFailedError: [
    "The video failed",
    "failed",
    "Change the prompt or the references, then clear the task that ordered the video.",
  ],
  ManxueTimeoutError: [
    "The wait timed out",
    "not completed in time",
    "Clear this task to wait on: the video may be completed by now. Raise timeout if it takes longer.",
  ],
  AirflowTaskTimeout: [
    "The task timed out",
    "not completed in time",
    "Raise execution_timeout, which bounds the whole task, " + CLEAR + ".",
  ],
  ManxueOrderRejectedError: [
    "The order was refused",
    "not ordered",
    "Correct what the message names, " + CLEAR + ". Nothing was ordered.",
  ],
  ManxueOrderTimeoutError: [
    "The order was not accepted in time",
    "not ordered",
    "Clear this task to order again, or raise order_timeout. Nothing was ordered.",
  ],
  ManxueOrderUnknownError: [
    "The outcome of the order is unknown",
    "unknown",
    "Look for the video in the list of the service. The message has the remedies; do not order again before.",
  ],
  ManxueOrderMismatchError: [
    "The order differs from the recorded one",
    "ordered",
    "Keep the recorded video, or delete the record to order again. The message has both remedies.",
  ],
  ManxueRunLimitError: [
    "The limit of the run was reached",
    "not ordered",
    "Raise max_seconds_per_run or order shorter videos, " + CLEAR + ". Nothing was ordered.",
  ],
  ManxueOrderError: [
    "The task ended after its order",
    "ordered",
    "Wait for the id with another task. A clear orders another video.",
  ],
  ManxueInputError: ["An argument was refused", undefined, "Correct what the message names, " + CLEAR + "."],
  ManxueAuthenticationError: ["The API key was refused", undefined, "Put a valid key into the connection, " + CLEAR + "."],
  ManxuePermissionError: ["The request is forbidden", undefined, "Check what the API key is allowed to do, " + CLEAR + "."],
  ManxueConfigurationError: ["The connection is not usable", undefined, "Correct what the message names, " + CLEAR + "."],
  ManxueConnectionNotFoundError: ["The connection was not found", undefined, "Create it, " + CLEAR + "."],
  ManxueRedirectError: ["The service has moved", undefined, "Put the final address into the connection, " + CLEAR + "."],
  ManxueRefusedError: [
    "The service does not return the video",
    "unknown",
    "Check the id and the connection. The service stores a video for about a day.",
  ],
  ManxueResultMissingError: ["The video has no URL", "completed", "Clear this task later, or ask the service with this id."],
  ManxueMediaTypeError: ["The id is not that of a video", undefined, "Pass the id of a video."],
  ManxueNotCompletedError: [
    "The video is not completed",
    undefined,
    "Let this task follow the task that waits for the video, " + CLEAR + ".",
  ],
  ManxueDownloadError: [
    "The video could not be downloaded",
    "not saved",
    "Clear this task soon: the video expires after about a day.",
  ],
  ManxueUnverifiedVideoError: ["The video may not be complete", "not saved", "Check the file that the message names."],
  ManxueUnsafeUrlError: ["The address of the video was refused", "not saved", "Allow the address if it is right, " + CLEAR + "."],
  ManxueStorageError: [
    "The store refused the video",
    "not saved",
    "Correct what the message names, then clear this task soon: the video expires after about a day.",
  ],
  ManxueExistsError: ["The file exists already", "not saved", "Remove it, or set if_exists, " + CLEAR + "."],
};
const ORDERED =
  "The video is ordered and may be completed by now. With Airflow 3.3 and later, clear this task to wait on. " +
  "With older versions a clear orders again: wait for the id with another task.";

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
  const { return_value: result, video_task_id: ordered, manxue_status: record } = found;
  instance.record = usable(record, instance.state);
  if (Array.isArray(result)) return result.map((one) => ({ ...described(one), instance, isResult: true }));
  if (result && typeof result === "object") return [{ ...described(result), instance }];
  const { video_task_id: asked, model } = instance.rendered_fields ?? {};
  const id = [ordered, ...(record?.video_task_ids ?? []), asked].find((one) => typeof one === "string");
  if ("sha256" in found) {
    const { size, content_type, sha256 } = found;
    return [{ id, saved: result, size, content_type, sha256, instance }];
  }
  const isBatch = instance.operator === "ManxueVideoBatchSensor" || instance.record?.videos > 1;
  return [{ id: isBatch ? undefined : (id ?? result), model, instance, isBatch }];
}

// The record of a wait says nothing of a task that has ended, apart from the reason why it failed.
const usable = (record, state) =>
  state === "success" || (DONE.has(state) && record?.state !== "failed") ? undefined : record;

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

// A date as Airflow's pages show it, in the time zone that was chosen there. Airflow stores that as JSON.
function moment(seconds) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime()) || !seconds) return undefined;
  const options = { dateStyle: "short", timeStyle: "medium" }; // in Swedish: YYYY-MM-DD HH:mm:ss
  try {
    const timeZone = decoded(localStorage.getItem("timezone")) ?? undefined;
    return new Intl.DateTimeFormat("sv", { ...options, timeZone }).format(date);
  } catch {
    return new Intl.DateTimeFormat("sv", options).format(date);
  }
}

const stateOf = ({ state }) => WORDS[state] ?? `is ${state}`;

const plural = (count) => (count === 1 ? "1 video" : `${count} videos`);

const isOrder = ({ operator }) => operator === "ManxueCreateVideoOperator";

function errorOf(instance) {
  const { record } = instance;
  if (record?.state !== "failed") return undefined;
  const [title, status, remedy] = ERRORS[record.error] ?? ["The task failed"];
  const isOrdered = isOrder(instance) && status === "not completed in time";
  return { title, status, remedy: isOrdered ? ORDERED : remedy, message: record.message };
}

// What a wait, or an order that waits for room, has recorded.
function waitFacts({ record }, isBatch) {
  if (record?.state !== "waiting" && record?.state !== "waiting_for_room") return {};
  const { statuses = {}, videos, video_task_ids: ids = [], deadline, updated_at: at, attempts, next_at: next } = record;
  const counts = Object.entries(statuses).map(([status, count]) => (isBatch ? `${count} ${status}` : status));
  const more = videos - (statuses.completed ?? 0) - (statuses.failed ?? 0) - ids.length;
  return {
    Status: counts.length ? `${counts.join(", ")} (at ${moment(at)})` : undefined,
    Attempts: attempts,
    "Next attempt": moment(next),
    Deadline: moment(deadline),
    Awaited: isBatch ? ids.join(", ") + (more > 0 ? ` and ${more} more` : "") : undefined,
  };
}

function facts(video) {
  const { start_date: start, end_date: end, state } = video.instance;
  const waited = start && end && DONE.has(state) && video.size === undefined;
  const hasOwn = video.isResult || video.status; // the task's record is not about this one video
  const error = hasOwn ? undefined : errorOf(video.instance);
  return {
    Status: video.status === "unknown" && video.error ? "not completed" : (video.status ?? error?.status),
    ...(hasOwn ? {} : waitFacts(video.instance, video.isBatch)),
    Message: video.error ?? error?.message,
    "What to do": error?.remedy,
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
    : "This video does not play. Its URL may have expired (the service's URLs live about a day), " +
      "or this browser does not reach its host.";
  if (video.saved) return `${reason} Use the saved copy: ${video.saved}`;
  const missing = video.isNotSaved ? " No saved copy was found in this run." : "";
  const remedy = isOrder(video.instance)
    ? "Wait for the id with another task to get a new URL (a clear of this one orders another video)"
    : "Clear this task to get a new URL";
  return `${reason}${missing} ${remedy}, while the service stores the video. To keep a video, save it.`;
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
  const heading = [label, video.id].filter(Boolean).join(" ");
  if (heading) card.prepend(element(label ? "h3" : "h2", heading));
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
  showGallery(plural(videos.length), videos.length, async (from) =>
    videos.slice(from, from + AT_A_TIME).map((video, index) => [video, `#${from + index + 1}`]),
  );

// A card of a gallery shows the state of its task instance, or why it failed.
function mappedVideo(video, instance) {
  const error = errorOf(instance);
  const status = video.status ?? [error?.title, `the task ${stateOf(instance)}`].filter(Boolean).join("; ");
  return { ...video, status, error: video.error ?? error?.message };
}

async function showMapped() {
  const list = (offset) => api([...task, "listMapped"], { limit: AT_A_TIME, offset, order_by: "map_index" });
  const first = await list(0);
  const count = first.total_entries;
  await showGallery(`All ${count} videos of this mapped task`, count, async (offset) => {
    const { task_instances: instances } = offset ? await list(offset) : first;
    const videos = await Promise.all(instances.map(videosOf));
    return instances.flatMap((instance, index) =>
      videos[index].map((video) => [mappedVideo(video, instance), `[${instance.map_index}]`]),
    );
  });
}

function say(text) {
  const message = byId("message");
  message.textContent = text;
  message.hidden = !text;
}

// The state of the task. The card of a single video has the reason of a failure; the cards of a batch have theirs.
function explain(instance, [video]) {
  const error = errorOf(instance);
  const text = `The task ${stateOf(instance)}`;
  if (instance.state === "failed" && !error) return `${text}. Its log has the reason.`;
  return error && video.isResult ? `${text}: ${error.title.toLowerCase()}. ${error.remedy ?? ""}` : `${text}.`;
}

function entitle(text) {
  byId("title").textContent = text;
}

// The title of a task: what became of its videos.
function titleOf(instance, videos) {
  const { record, state, operator } = instance;
  const error = errorOf(instance);
  const [video] = videos;
  const counted = (completed, all) => `${completed} of ${plural(all)} completed`;
  if (video.isResult) return counted(videos.filter((one) => one.video_url).length, videos.length);
  if (record?.state === "waiting" && video.isBatch) return counted(record.statuses.completed ?? 0, record.videos);
  if (error) return error.title;
  if (record?.state === "waiting_for_room") return "The order waits for room";
  if (video.saved) return "Video saved";
  if (video.video_url) return "Video completed";
  if (state === "success") return "Video ordered";
  if (DONE.has(state)) return "No video";
  if (operator === "ManxueToObjectStorageOperator") return "Saving the video";
  return `Waiting for the ${video.isBatch ? "videos" : "video"}`;
}

function complain(error) {
  entitle("Video");
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
  entitle(titleOf(instance, videos));
  const finished = videos.some((video) => video.video_url || video.saved);
  say(finished && instance.state === "success" ? "" : explain(instance, videos));
  showWait(instance);
  if (videos.some((video) => video.isResult)) return showBatch(videos);
  if (videos[0].id !== undefined || instance.record) show(byId("single"), videos[0]);
  return instance.map_index < 0 ? addSavedCopies() : showMapped();
}

// Changes when there is something else to show.
async function stampOf({ state, try_number, task_id, map_index }) {
  const record = DONE.has(state) ? undefined : await xcom(task_id, "manxue_status", map_index);
  return JSON.stringify([state, try_number, record]);
}

async function main(before) {
  const instance = await taskInstance();
  if (!instance) {
    // The page of a mapped task as a whole belongs to none of its instances.
    say("");
    entitle("Videos of this mapped task");
    return showMapped();
  }
  if (before === undefined && !(await isOurs(instance))) {
    return say("This is no task of the sd2_manxue provider with a video, so there is no video to show.");
  }
  const now = await stampOf(instance);
  if (now !== before) await showTask(instance);
  if (!DONE.has(instance.state)) setTimeout(() => main(now).catch(complain), REFRESH_EVERY * 1000);
}

// In Airflow's frame, the page has the background of Airflow's page. Airflow keeps the theme that was chosen in its UI here; "system" and nothing leave it to the browser.
function followTheme() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "system";
  document.documentElement.dataset.alone = String(top === self);
}

followTheme();
addEventListener("storage", followTheme);
main().catch(complain);
