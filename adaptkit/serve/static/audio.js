// The microphone: records PCM, judges its level and encodes it as WAV.

const WANTED_HZ = 16000; // the server resamples other rates
const SHORTEST_SEC = 0.3;
const SILENT = 0.001; // largest sample; a muted microphone gives zeros
const QUIET = 0.005; // loudness of the loudest twentieth of the recording, -46 dBFS
const CLIPPED = 0.98; // resampling moves samples that were cut at 1
const MOST_CLIPPED = 0.002; // of the samples; the server keeps no recording with more than 0.005
const FLOOR_DB = -60;
const BESIDE = 2000; // bytes of a request beside its samples: the head of the file, and the parts of a form

const MICROPHONE = {
  NotAllowedError:
    "The browser may not use the microphone. Allow it by the sign beside the address, then try again.",
  NotFoundError: "No microphone was found. Connect one, then try again.",
  NotReadableError: "Another program is using the microphone. Close it, then try again.",
};
const INSECURE =
  "Browsers give no microphone to pages without encryption. Open this page by an address that begins with " +
  "https://, or on the server's own computer by http://localhost and the same port.";
const NOT_LOADED = "A part of this page could not be loaded. Check that the server is running, then try again.";

export const PROBLEMS = {
  short: "That was too short. Speak after the button says “Stop”, and press it when you have finished.",
  silent: "Nothing was heard. Check that the microphone is switched on and not muted.",
  quiet: "That was very quiet. If you can, come closer to the microphone, or raise its level, and record it again.",
  clipped:
    "That was too loud for the microphone. Move back a little, or lower its level, and record it again.",
};

export class MicrophoneError extends Error {}

/**
 * Start to record at most `maxSec` seconds, or what `maxBytes` bytes can hold. As sound arrives, `onLevel` is called
 * with its level from 0 to 1 and the seconds so far; at the limit `onFull()`, and `onLost()` if the microphone goes.
 */
export async function record({ maxSec, maxBytes, onLevel, onFull, onLost }) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new MicrophoneError(INSECURE);
  const stream = await openMicrophone();
  const pieces = [];
  let numSamples = 0;
  let context;
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context && context.state !== "closed") context.close();
  };
  try {
    let source;
    [context, source] = await connect(stream);
    const node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    const rateHz = context.sampleRate;
    const most = Math.floor(Math.min(maxSec * rateHz, (maxBytes - BESIDE) / 2)); // samples
    const ended = new Promise((resolve) => {
      node.port.onmessage = ({ data }) => {
        if (data === "end") return resolve();
        pieces.push(data);
        numSamples += data.length;
        onLevel(measure(data), numSamples / rateHz);
        if (numSamples >= most) onFull(most / rateHz);
      };
    });
    source.connect(node).connect(context.destination); // some browsers run only what leads there; it is silent
    await context.resume();
    stream.getAudioTracks()[0].addEventListener("ended", onLost);
    const finish = async () => {
      node.port.postMessage("stop");
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 1000))]);
      close();
      return newTake(join(pieces, numSamples).subarray(0, most), rateHz);
    };
    return { finish, close };
  } catch (error) {
    close();
    throw error;
  }
}

async function openMicrophone() {
  // as the microphone hears it: what suppresses noise also removes weak and breathy speech
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new MicrophoneError(MICROPHONE[error.name] ?? `The microphone cannot be used (${error.message}).`);
  }
}

async function connect(stream) {
  for (const options of [{ sampleRate: WANTED_HZ }, {}]) {
    const context = new AudioContext(options);
    try {
      const source = context.createMediaStreamSource(stream); // refused by browsers that do not resample
      await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
      return [context, source];
    } catch (error) {
      context.close();
      if (error.name === "AbortError") throw new MicrophoneError(NOT_LOADED);
      if (error.name !== "NotSupportedError") throw error;
    }
  }
  throw new MicrophoneError("This browser cannot record. Try another, or a newer version.");
}

function measure(samples) {
  const db = 20 * Math.log10(loudness(samples) + 1e-9);
  return Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
}

function loudness(samples) {
  return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
}

function join(pieces, numSamples) {
  const samples = new Float32Array(numSamples);
  let place = 0;
  for (const piece of pieces) {
    samples.set(piece, place);
    place += piece.length;
  }
  return samples;
}

function newTake(samples, rateHz) {
  const durationSec = samples.length / rateHz;
  const problem = judge(samples, rateHz);
  return { durationSec, problem, canBeKept: !["short", "silent"].includes(problem), wav: encode(samples, rateHz) };
}

function judge(samples, rateHz) {
  if (samples.length < SHORTEST_SEC * rateHz) return "short";
  const sizes = samples.map(Math.abs);
  if (sizes.every((size) => size < SILENT)) return "silent";
  if (sizes.filter((size) => size >= CLIPPED).length > MOST_CLIPPED * sizes.length) return "clipped";
  const width = Math.round(rateHz / 50);
  const levels = [];
  for (let start = 0; start + width <= samples.length; start += width) {
    levels.push(loudness(samples.subarray(start, start + width)));
  }
  levels.sort((one, other) => one - other);
  return levels[Math.floor(0.95 * levels.length)] < QUIET ? "quiet" : null;
}

/** Encode samples as a WAV file of 16 bits, with one channel. */
function encode(samples, rateHz) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (place, text) => [...text].forEach((c, k) => view.setUint8(place + k, c.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rateHz, true);
  view.setUint32(28, 2 * rateHz, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, k) =>
    view.setInt16(44 + 2 * k, Math.round(32767 * Math.min(1, Math.max(-1, sample))), true),
  );
  return new Blob([view], { type: "audio/wav" });
}
