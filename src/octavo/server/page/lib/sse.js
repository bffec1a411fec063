// Server-sent events (HTML standard, 9.2) from a fetch body.

const LINE_END = /\r\n|\n|\r/;

/** Yields the data of each event. bytes: a ReadableStream of Uint8Array. */
export async function* events(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let afterReturn = false;
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const text = afterReturn && value.startsWith("\n") ? value.slice(1) : value; // the second half of a line's end
      afterReturn = value.endsWith("\r");
      const lines = (rest + text).split(LINE_END);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
