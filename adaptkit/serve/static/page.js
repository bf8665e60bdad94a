// The page for people: chooses a speaker, records prompts, has the voice learned, recognises and corrects.

import { MicrophoneError, PROBLEMS, record } from "./audio.js";
import { ServerError, explain, form, read, send } from "./server.js";

const LIMITS = { maxSec: Number(document.body.dataset.maxSec), maxBytes: Number(document.body.dataset.maxBytes) };
const EVERY_MS = 1000;
const BASE = { speaker: null, has_submodel: false, recordings: [], job: null, isEnrolled: false };
const IN_PROGRESS = ["queued", "running"];
const $ = (id) => document.getElementById(id);

let canEnroll = false;
let speaker = BASE;
let prompts = [];
let place = 0; // of the prompt on show
let take = null; // the recording that is not sent yet, or that was recognised last
let polls = 0;

class Recorder {
  constructor(parent, { onStart, onTake, describedBy, hasNext }) {
    parent.append($("recorder").content.cloneNode(true));
    for (const name of ["meter", "bar", "level", "said", "toggle", "listen"]) {
      this[name] = parent.querySelector(`.${name}`);
    }
    Object.assign(this, { onStart, onTake, hasNext, state: "idle", attempt: 0, player: null, source: null });
    if (describedBy) this.toggle.setAttribute("aria-describedby", describedBy);
    this.toggle.onclick = () => run(() => (this.state === "recording" ? this.stop() : this.start()));
    this.listen.onclick = () => run(() => this.play());
  }

  /** Show a recording that can be listened to, `source()` gives it; or none. */
  reset(said = "", source = null) {
    this.attempt += 1;
    this.session?.close();
    this.player?.pause();
    Object.assign(this, { state: "idle", session: null, source });
    this.toggle.textContent = source ? "Record again" : "Start recording";
    this.toggle.classList.remove("recording");
    this.toggle.classList.toggle("primary", !source || !this.hasNext);
    this.meter.hidden = true;
    this.listen.hidden = !source;
    this.said.textContent = said;
  }

  async start() {
    if (this.state !== "idle") return;
    this.onStart();
    this.reset();
    const mine = this.attempt;
    this.state = "starting";
    this.toggle.textContent = "Wait…";
    let session;
    try {
      session = await record({
        ...LIMITS,
        onLevel: (level, seconds) => mine === this.attempt && this.hear(level, seconds),
        onFull: (seconds) => mine === this.attempt && run(() => this.stopAtLimit(seconds)),
        onLost: () => mine === this.attempt && run(() => this.stop("The microphone went away. ")),
      });
    } catch (error) {
      if (mine === this.attempt) this.reset();
      throw error;
    }
    if (mine === this.attempt) this.session = session;
    else session.close(); // left while the microphone was starting
  }

  hear(level, seconds) {
    if (this.state === "starting" && this.session) {
      this.state = "recording";
      this.toggle.textContent = "Stop";
      this.toggle.classList.add("recording");
      this.meter.hidden = false;
      this.said.textContent = "Speak now.";
    }
    if (this.state !== "recording") return;
    this.show(level, `${seconds.toFixed(0)} s – ${level < 0.2 ? "quiet" : level > 0.95 ? "too loud" : "good"}`);
  }

  show(level, words) {
    this.bar.style.width = `${Math.round(100 * level)}%`;
    this.level.textContent = words;
  }

  stopAtLimit(seconds) {
    return this.stop(`Stopped after ${seconds.toFixed(0)} s, the longest that the server takes. `);
  }

  async stop(why = "") {
    if (this.state !== "recording" || !this.session) return;
    this.state = "finishing";
    const mine = this.attempt;
    const found = await this.session.finish();
    if (mine !== this.attempt) return;
    const said = PROBLEMS[found.problem] ?? `Recorded ${found.durationSec.toFixed(1)} s.`;
    this.reset(why + said, found.canBeKept ? () => found.wav : null);
    if (found.canBeKept) this.onTake(found);
  }

  async play() {
    if (this.player) return this.player.pause();
    const address = URL.createObjectURL(await this.source());
    this.player = new Audio(address);
    this.listen.textContent = "Stop listening";
    const over = () => {
      this.player = null;
      this.listen.textContent = "Listen";
      URL.revokeObjectURL(address);
    };
    this.player.onpause = this.player.onerror = over; // the end is a pause too
    await this.player.play().catch((error) => {
      over();
      throw new MicrophoneError(`The recording cannot be played (${error.message}).`);
    });
  }
}

const reader = new Recorder(document.querySelector("#read .recorder"), {
  describedBy: "prompt",
  hasNext: true,
  onStart: () => setTake(null),
  onTake: (found) => {
    setTake(found);
    $("keep").focus();
  },
});
const talker = new Recorder(document.querySelector("#speak .recorder"), {
  onStart: hideResults,
  onTake: (found) => {
    take = found;
    run(recognise);
  },
});

/** Do what a button asks, and say what went wrong. */
async function run(action) {
  warn("");
  $("done").textContent = "";
  try {
    await action();
  } catch (error) {
    const isKnown = error instanceof MicrophoneError || error instanceof ServerError;
    warn(isKnown ? explain(error) : `Something went wrong in this page: ${error.message}`);
    if (!isKnown) console.error(error);
  }
}

function warn(text) {
  const notice = document.querySelector("main > section:not([hidden]) .notice");
  if (!notice || notice.textContent === text) return;
  notice.textContent = text;
  if (text) notice.scrollIntoView({ block: "nearest" });
}

function show(step, { moves = true } = {}) {
  polls += 1;
  reader.reset();
  talker.reset();
  hideResults();
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== step;
  for (const button of $("steps").querySelectorAll("button")) {
    if (button.dataset.step === step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  }
  $("who").hidden = step === "choose";
  $("steps").hidden = step === "choose" || !speaker.isEnrolled;
  $("foot").hidden = step === "choose" || !speaker.isEnrolled;
  $("name").textContent = speaker.speaker ?? "nobody in particular";
  const title = $(`${step}-title`);
  document.title = `${title.textContent} – a recogniser for your voice`;
  if (step === "read") showPrompt();
  if (step === "learn") showLearning();
  if (moves) {
    title.focus();
    scrollTo(0, 0);
  }
}

// --- Who is speaking

async function choose({ moves = true } = {}) {
  const last = speaker.speaker;
  speaker = BASE;
  show("choose", { moves });
  $("retry").hidden = false; // unless all of this is answered
  $("choose-form").hidden = $("new-form").hidden = true;
  const listed = await read("v1/submodels");
  const enrolled = await readSpeakers();
  $("retry").hidden = true;
  $("choose-form").hidden = false;
  const names = enrolled.map((one) => one.speaker);
  names.push(...listed.known.map((one) => one.speaker).filter((name) => !names.includes(name)));
  const options = [...names].sort().map((name) => new Option(name, name, false, name === last));
  $("speaker").replaceChildren(new Option("Nobody in particular", ""), ...options);
  $("new-form").hidden = !canEnroll;
  $("privacy").textContent = canEnroll
    ? "What you say is sent to this server and nowhere else. Sentences that you read, and corrections, are kept " +
      "there until you delete the speaker."
    : "What you say is sent to this server and nowhere else, and is not kept.";
}

async function readSpeakers() {
  try {
    const found = (await read("v1/speakers")).speakers;
    prompts = (await read("v1/prompts")).prompts;
    canEnroll = true;
    return found;
  } catch (error) {
    if (error.status !== 404) throw error;
    canEnroll = false; // started without --enroll
    return [];
  }
}

$("choose-form").onsubmit = (event) => {
  event.preventDefault();
  run(async () => {
    const name = $("speaker").value;
    const found = canEnroll && name ? (await readSpeakers()).find((one) => one.speaker === name) : null;
    if (found) return open(found);
    speaker = name ? { ...BASE, speaker: name, has_submodel: true } : BASE;
    show("speak");
  });
};

$("new-form").onsubmit = (event) => {
  event.preventDefault();
  run(async () => {
    const name = $("new-name").value.trim();
    const isPlain = /^[\p{L}\p{N}][\p{L}\p{N}_-]*$/u.test(name);
    $("new-name").setAttribute("aria-invalid", String(!isPlain));
    if (!isPlain) {
      $("new-name").focus();
      throw new ServerError(0, "A name is one word of letters and digits, for example anna or anna-2.");
    }
    open(await (await send("PUT", path(name))).json());
    $("new-name").value = "";
  });
};

function path(name, ...more) {
  return ["v1/speakers", ...[name, ...more].map(encodeURIComponent)].join("/");
}

function open(found) {
  speaker = { ...found, isEnrolled: true };
  place = Math.max(0, prompts.findIndex((prompt) => !recordingOf(prompt)));
  if (IN_PROGRESS.includes(speaker.job?.state)) return show("learn");
  return show(speaker.has_submodel || !prompts.length ? "speak" : "read");
}

async function reload() {
  speaker = { ...(await read(path(speaker.speaker))), isEnrolled: true };
}

$("change").onclick = $("retry").onclick = () => run(choose);
for (const button of $("steps").querySelectorAll("button")) {
  button.onclick = () => run(() => show(button.dataset.step));
}

$("delete").onclick = () => {
  $("delete-title").textContent = `Delete ${speaker.speaker}?`;
  $("delete-dialog").returnValue = "";
  $("delete-dialog").showModal();
};
$("delete-dialog").onclose = () => {
  if ($("delete-dialog").returnValue !== "delete") return;
  run(async () => {
    const name = speaker.speaker;
    await send("DELETE", path(name));
    await choose();
    $("done").textContent = `${name} is deleted.`;
  });
};

// --- Read aloud

function recordingOf(prompt) {
  return speaker.recordings.find((one) => one.kind === "prompt" && one.prompt === prompt.id);
}

function numRecorded() {
  return prompts.filter(recordingOf).length;
}

function showPrompt() {
  const prompt = prompts[place];
  const recording = recordingOf(prompt);
  $("prompt-number").textContent = `Sentence ${place + 1} of ${prompts.length} (${numRecorded()} recorded)`;
  $("prompt").textContent = prompt.text;
  $("previous").disabled = place === 0;
  $("next").disabled = place === prompts.length - 1;
  setTake(null);
  if (!recording) return reader.reset();
  return reader.reset("This sentence is recorded.", async () =>
    (await send("GET", path(speaker.speaker, "recordings", recording.id))).blob(),
  );
}

function setTake(found) {
  take = found;
  $("keep").hidden = !found;
}

function turn(step) {
  place += step;
  showPrompt();
  reader.toggle.focus();
}

$("previous").onclick = () => run(() => turn(-1));
$("next").onclick = () => run(() => turn(1));
$("keep").onclick = () =>
  run(async () => {
    const prompt = prompts[place];
    const fields = { file: take.wav, text: prompt.text, prompt: prompt.id };
    await whileDisabled($("keep"), () => send("POST", path(speaker.speaker, "recordings"), form(fields)));
    await reload();
    const later = prompts.findIndex((one, k) => k > place && !recordingOf(one));
    const next = later >= 0 ? later : prompts.findIndex((one) => !recordingOf(one));
    if (next >= 0) {
      turn(next - place);
      reader.said.textContent = "Saved. Here is the next sentence.";
    } else {
      show("learn");
      $("done").textContent = "Saved. All sentences are recorded.";
    }
  });

async function whileDisabled(button, action) {
  button.disabled = true;
  try {
    return await action();
  } finally {
    button.disabled = false;
  }
}

// --- Learn my voice

function showLearning() {
  const num = speaker.recordings.filter((one) => one.kind === "correction").length;
  const corrections = num ? `, and ${num} ${num === 1 ? "correction" : "corrections"}` : "";
  $("material").textContent =
    `${numRecorded()} of ${prompts.length} sentences are recorded${corrections}: ` +
    `${speaker.audio_sec.toFixed(0)} seconds of speech.`;
  showJob(speaker.job);
  if (IN_PROGRESS.includes(speaker.job?.state)) run(follow);
}

function showJob(job) {
  const isInProgress = IN_PROGRESS.includes(job?.state);
  $("job").hidden = !isInProgress;
  $("progress").value = job?.progress ?? 0;
  $("start").hidden = isInProgress;
  $("start").classList.toggle("primary", !speaker.has_submodel);
  $("start").textContent = job ? "Learn my voice again" : "Learn my voice";
  $("cancel").hidden = !isInProgress;
  $("try").hidden = !speaker.has_submodel;
  const text = job ? describe(job) : "";
  if ($("job-text").textContent !== text) $("job-text").textContent = text; // announced only if it changes
}

function describe(job) {
  const tenths = Math.floor(10 * job.progress) * 10;
  const better =
    job.wer_new === null || job.wer_start === null
      ? ""
      : ` On the sentences kept aside, about ${job.wer_new.toFixed(0)} of 100 words are wrong; before, it was ` +
        `${job.wer_start.toFixed(0)}.`;
  return {
    queued: `Waiting for others to be finished${job.position ? `; you are number ${job.position}` : ""}.`,
    running: `Learning: about ${tenths} % is done.`,
    installed: `Your recogniser is ready.${better}`,
    not_better:
      `It did not become better, so nothing was changed.${better} ` +
      "More recordings usually help.",
    failed: `It did not work. ${job.message}`,
    cancelled: "Cancelled. Your recordings are kept.",
  }[job.state];
}

async function follow() {
  const mine = ++polls;
  while (mine === polls) {
    try {
      speaker.job = await read(path(speaker.speaker, "enroll"));
      if (mine !== polls) return;
      if (!IN_PROGRESS.includes(speaker.job.state)) await reload();
      warn("");
      showJob(speaker.job);
      if (!IN_PROGRESS.includes(speaker.job.state)) return;
    } catch (error) {
      if (error.status) throw error;
      warn(explain(error)); // and ask again: the server may come back
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

$("start").onclick = () =>
  run(async () => {
    try {
      speaker.job = await (await send("POST", path(speaker.speaker, "enroll"))).json();
    } catch (error) {
      if (error.status === 422) {
        throw new ServerError(0, `Record more sentences first. The server says: ${error.message}.`);
      }
      if (error.status !== 409) throw error; // it is being learned already, asked for on another page
    }
    $("cancel").hidden = false;
    $("cancel").focus();
    await follow();
    if (!$("learn").hidden && !IN_PROGRESS.includes(speaker.job.state)) {
      ($("try").hidden ? $("start") : $("try")).focus();
    }
  });
$("cancel").onclick = () =>
  run(async () => {
    $("job-text").textContent = "Cancelling…";
    await whileDisabled($("cancel"), () => send("DELETE", path(speaker.speaker, "enroll")));
    await follow();
    $("start").focus();
  });
$("try").onclick = () => run(() => show("speak"));

// --- Speak

function hideResults() {
  take = null;
  $("heard").textContent = "";
  for (const id of ["again", "results", "correct-form"]) $(id).hidden = true;
}

async function recognise() {
  const own = speaker.has_submodel ? `?speaker=${encodeURIComponent(speaker.speaker)}` : null;
  const mine = take;
  $("again").hidden = true;
  const said = talker.said.textContent;
  talker.said.textContent = "One moment…";
  let found;
  try {
    const hear = async (query) => (await send("POST", `v1/recognize${query}`, mine.wav)).json();
    found = await Promise.all([hear(""), own === null ? null : hear(own)]);
  } catch (error) {
    if (mine === take) $("again").hidden = false;
    throw error;
  } finally {
    talker.said.textContent = mine === take ? said : "";
  }
  if (mine === take) showResults(...found);
}

function showResults(base, own) {
  $("base-title").textContent = base.submodel ? "Without your name" : "Ordinary recogniser";
  $("base-text").textContent = base.text || "(nothing understood)";
  $("own").hidden = !own;
  if (own) $("own-text").textContent = own.text || "(nothing understood)";
  $("results").hidden = false;
  $("correct-form").hidden = !speaker.isEnrolled;
  $("correct").value = (own ?? base).text;
  const words = own ? `Your recogniser: ${$("own-text").textContent}. ` : "";
  $("heard").textContent = `${words}${$("base-title").textContent}: ${$("base-text").textContent}.`;
  $("results").scrollIntoView({ block: "nearest" });
}

$("again").onclick = () => run(recognise);
$("correct-form").onsubmit = (event) => {
  event.preventDefault();
  run(async () => {
    const text = $("correct").value.trim();
    if (!text) {
      $("correct").focus();
      throw new ServerError(0, "Write what you said first.");
    }
    const fields = { file: take.wav, text, speaker: speaker.speaker };
    const button = $("correct-form").querySelector("button");
    await whileDisabled(button, () => send("POST", "v1/corrections", form(fields)));
    await reload();
    $("correct-form").hidden = true;
    talker.toggle.focus();
    $("done").textContent = "Thank you. This counts when your voice is learned again.";
  });
};

run(() => choose({ moves: false }));
