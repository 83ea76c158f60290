// The worker of the page: it computes, so that the page never waits.

// The bytes of a text with seven bits in each character; see page.py.
function decoded({text, size}) {
  const bytes = new Uint8Array(Math.ceil(text.length / 8) * 7);
  for (let i = 0, at = 0; i < text.length; i += 8) {
    let code = text.charCodeAt(i) & 127;
    for (let k = 0; k < 7; ++k, ++at) {
      const next = text.charCodeAt(i + k + 1) & 127;
      bytes[at] = code << (k + 1) | next >> (6 - k);
      code = next;
    }
  }
  return bytes.subarray(0, size);
}

// The bytes that page.py encoded.
async function contents(part) {
  const stream = new Blob([decoded(part)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(inflated).arrayBuffer());
  const rows = Math.floor(planes.length / part.stride);
  const bytes = planes.slice();
  for (let plane = 0, i = 0; plane < part.stride; ++plane) {
    for (let row = 0; row < rows; ++row) bytes[row * part.stride + plane] = planes[i++];
  }
  return bytes;
}

let generator;

// On a great circle: on a straight line latents would be too short (stugan_tf/latents.py).
function between(start, end, fraction) {
  let product = 0, first = 0, last = 0;
  for (let i = 0; i < start.length; ++i) {
    product += start[i] * end[i];
    first += start[i] * start[i];
    last += end[i] * end[i];
  }
  const angle = Math.acos(Math.min(1, Math.max(-1, product / Math.sqrt(first * last))));
  const sine = Math.sin(angle), isLine = Math.abs(sine) < 1e-6;
  const a = isLine ? 1 - fraction : Math.sin((1 - fraction) * angle) / sine;
  const b = isLine ? fraction : Math.sin(fraction * angle) / sine;
  return start.map((x, i) => a * x + b * end[i]);
}

const tasks = {
  async open({module, file}) {
    const parts = await Promise.all([contents(module), contents(file)]);
    generator = await Generator.open(...parts);
    tasks.grid({seed: 0, truncation: null, label: null, first: 0, count: 1}); // Compiles, untimed.
    return {about: generator.about};
  },

  // Images first, ..., first + count - 1 of a seed; of a class, or of that which the seed draws.
  grid({seed, truncation, label, first, count}) {
    const numbers = generator.drawn(seed, truncation, first + count);
    const size = generator.about.latentDim;
    const labels = numbers.labels.slice(first, first + count);
    if (label !== null) labels.fill(label);
    const latents = numbers.latents.subarray(first * size, (first + count) * size);
    return {labels, ...generator.generate(latents, labels)};
  },

  // One image of the way from image `first` over the next ones back to it.
  //   position: from 0 to stops.
  walk({seed, truncation, label, first, stops, position}) {
    const numbers = generator.drawn(seed, truncation, first + stops);
    const size = generator.about.latentDim;
    const at = (stop) => {
      const i = first + stop % stops;
      return numbers.latents.subarray(i * size, (i + 1) * size);
    };
    const stop = Math.floor(position);
    const labels = Int32Array.of(label ?? numbers.labels[first]);
    const latents = between(at(stop), at(stop + 1), position - stop);
    return {labels, ...generator.generate(latents, labels)};
  },
};

onmessage = async ({data}) => {
  try {
    const result = await tasks[data.task](data);
    postMessage({...data, ...result, module: null, file: null},
                result.pixels ? [result.pixels.buffer] : []);
  } catch (error) {
    postMessage({task: "fault", text: error.message || String(error)});
  }
};
