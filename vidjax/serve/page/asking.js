// Requests to the server. What fails is an Error whose message is one sentence.

const SILENT = "The server does not answer; is it still running?";

// Asks for the JSON of a path.
export async function get(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error(SILENT);
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

// Sends a file: -> {blob, facts} of the answer. `tell(state, share)` hears how far it is, `signal` gives it up.
export function send(path, file, options, tell, signal) {
  const job = Array.from(crypto.getRandomValues(new Uint32Array(4)), x => x.toString(36)).join("-");
  const query = new URLSearchParams({...options, name: file.name || "video", job});
  const request = new XMLHttpRequest();
  let timer = 0;
  const ask = async () => {
    try {
      const {state, done, of} = await get(`/api/progress?job=${job}`);
      if (timer && state !== "unknown") tell(state, of ? done / of : null, done, of);
    } catch { /* the answer itself will say what is wrong */ }
    if (timer) timer = setTimeout(ask, 400);
  };
  return new Promise((on, fail) => {
    request.open("POST", `${path}?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "blob";
    request.upload.onprogress = event => tell("uploading", event.total ? event.loaded / event.total : null);
    request.upload.onload = () => { tell("waiting", null); timer = setTimeout(ask, 300); };
    request.onerror = () => fail(new Error(SILENT));
    request.onabort = () => fail(new DOMException("given up", "AbortError"));
    request.onload = async () => {
      if (request.status === 200) {
        const facts = request.getResponseHeader("X-Explained");
        return on({blob: request.response, facts: facts && JSON.parse(facts)});
      }
      try {
        fail(new Error(JSON.parse(await request.response.text()).error));
      } catch {
        fail(new Error(`The server answered with status ${request.status}.`));
      }
    };
    request.onloadend = () => { clearTimeout(timer); timer = 0; };
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

// Lets the browser save a blob.
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
