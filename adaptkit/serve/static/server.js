// Requests to the server, with its access token where it asks for one, and its refusals in plain words.

const MOST_MS = 60000;
const SILENCE =
  "The server does not answer. Check that it is running and that this computer is connected, then try again.";
const MEANINGS = {
  401: "This needs an access token. The person who runs the server can give you one.",
  403: "The server does not let this computer change anything. Ask the person who runs it for an access token.",
  409: "This cannot be done just now.",
  413: "This recording is too long for the server. Record a shorter one.",
  422: "The server cannot use this.",
  429: "The server is busy. Wait a moment, then try again.",
  503: "The server is busy. Wait a moment, then try again.",
  504: "The server took too long. Wait a moment, then try again.",
  507: "The server has no room left. Tell the person who runs it.",
};

/** A refusal by the server with its status, or 0 where nothing was refused by it. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Say what went wrong in plain words, with the server's own behind them. */
export function explain(error) {
  if (!error.status) return error.message;
  const meaning = MEANINGS[error.status] ?? "The server could not do this.";
  return error.message ? `${meaning} The server says: ${error.message}` : meaning;
}

export async function read(path) {
  return (await send("GET", path)).json();
}

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
}

export async function send(method, path, body) {
  const used = sessionStorage.getItem("token");
  const headers = used ? { Authorization: `Bearer ${used}` } : {};
  let response;
  try {
    const signal = AbortSignal.timeout(MOST_MS);
    response = await fetch(path, { method, body, headers, signal });
  } catch {
    throw new ServerError(0, SILENCE);
  }
  if (response.status === 401) {
    await askForToken(used);
    return send(method, path, body);
  }
  if (!response.ok) throw new ServerError(response.status, await readMessage(response));
  return response;
}

async function readMessage(response) {
  try {
    return (await response.json()).message ?? "";
  } catch {
    return ""; // from something between this page and the server
  }
}

let asking = null;

/** Ask for another token than the one that was refused; requests at the same time ask once. */
function askForToken(used) {
  if (sessionStorage.getItem("token") !== used) return Promise.resolve();
  asking ??= showDialog(used).finally(() => (asking = null));
  return asking;
}

function showDialog(used) {
  const dialog = document.getElementById("token-dialog");
  const help = document.getElementById("token-help");
  const field = document.getElementById("token");
  if (used) help.textContent = "That token was not accepted. Check it, and type it again.";
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve, reject) => {
    dialog.onclose = () => {
      const token = field.value.trim();
      if (dialog.returnValue !== "ok" || !token) return reject(new ServerError(401, ""));
      sessionStorage.setItem("token", token);
      return resolve();
    };
  });
}
