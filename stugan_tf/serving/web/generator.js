// The generator in a page: the WebAssembly module of runtime/ and what it needs from a page.

"use strict";

class Generator {
  static MOST = 16; // Images of one call.

  // Opens a generator.
  //   module: bytes of stugan.wasm.
  //   file: bytes of a sparse file.
  static async open(module, file) {
    const compiled = await WebAssembly.compile(module);
    const imports = {};
    for (const {module: from, name} of WebAssembly.Module.imports(compiled)) {
      // What the C library would ask of a system. There is none: 52 says so.
      (imports[from] ||= {})[name] = () => 52;
    }
    const {exports} = await WebAssembly.instantiate(compiled, imports);
    exports._initialize();
    return new Generator(exports, file);
  }

  constructor(exports, file) {
    this.exports = exports;
    this.message = this.reserve(512);
    const data = this.reserve(file.length), handle = this.reserve(4);
    new Uint8Array(this.memory, data, file.length).set(file);
    this.call("open_memory", data, file.length, 1, handle);
    exports.free(data);
    this.handle = this.view.getUint32(handle, true);
    exports.free(handle);
    this.about = this.describe();
    const {height, width, channels, latentDim} = this.about;
    this.size = height * width * channels;
    this.latents = this.reserve(4 * Generator.MOST * latentDim);
    this.labels = this.reserve(4 * Generator.MOST);
    this.images = this.reserve(4 * Generator.MOST * this.size);
    this.pixels = this.reserve(Generator.MOST * this.size);
    this.numbers = {count: 0};
  }

  get memory() { return this.exports.memory.buffer; } // Another one each time that it grows.
  get view() { return new DataView(this.memory); }

  reserve(size) {
    const pointer = this.exports.malloc(size) >>> 0;
    if (!pointer) throw new Error("There is not enough memory for this generator.");
    return pointer;
  }

  call(name, ...values) {
    if (this.exports[`stugan_${name}`](...values, this.message) !== 0) {
      throw new Error(this.text(this.message));
    }
  }

  text(pointer) {
    const bytes = new Uint8Array(this.memory, pointer >>> 0);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  describe() {
    const place = this.reserve(72); // stugan_description
    this.exports.stugan_describe(this.handle, place);
    const view = this.view;
    const small = (i) => view.getInt32(place + 4 * i, true);
    const large = (i) => Number(view.getBigInt64(place + 32 + 8 * i, true));
    const about = {
      latentDim: small(0), height: small(1), width: small(2), channels: small(3),
      numClasses: small(4), conditional: small(5) === 1, classNames: null,
      numWeights: large(0), numNonzero: large(1), weightBytes: large(2),
      workspaceBytes: large(3), instructionSet: this.text(view.getUint32(place + 64, true)),
    };
    if (small(6)) {
      about.classNames = [];
      for (let i = 0; i < about.numClasses; ++i) {
        about.classNames.push(this.text(this.exports.stugan_class_name(this.handle, i)));
      }
    }
    this.exports.free(place);
    return about;
  }

  // Latents and labels of the first images of a seed, at least so many. They are kept: images are
  // asked for in the order of their numbers.
  //   truncation: a number above 0, or null.
  drawn(seed, truncation, count) {
    const kept = this.numbers;
    if (kept.seed === seed && kept.truncation === truncation && kept.count >= count) return kept;
    count = Math.max(64, 2 ** Math.ceil(Math.log2(count)));
    const {latentDim} = this.about;
    const latents = this.reserve(4 * count * latentDim), labels = this.reserve(4 * count);
    const cut = this.reserve(8);
    this.view.setFloat64(cut, truncation ?? 0, true);
    try {
      this.call("draw", this.handle, BigInt(count), BigInt(seed), truncation === null ? 0 : cut,
                latents, labels);
      this.numbers = {
        seed, truncation, count,
        latents: new Float32Array(this.memory, latents, count * latentDim).slice(),
        labels: new Int32Array(this.memory, labels, count).slice(),
      };
    } finally {
      for (const each of [latents, labels, cut]) this.exports.free(each);
    }
    return this.numbers;
  }

  // Makes at most MOST images.
  //   latents: Float32Array [n * latentDim]; labels: Int32Array [n].
  // Returns them as RGBA, {pixels: Uint8ClampedArray [n * height * width * 4], milliseconds}.
  generate(latents, labels) {
    const {latentDim, height, width, channels, conditional} = this.about;
    const count = latents.length / latentDim;
    new Float32Array(this.memory, this.latents, latents.length).set(latents);
    new Int32Array(this.memory, this.labels, count).set(labels);
    const start = performance.now();
    this.call("generate", this.handle, BigInt(count), this.latents, conditional ? this.labels : 0,
              this.images);
    const milliseconds = performance.now() - start;
    this.exports.stugan_to_pixels(this.images, count * this.size, this.pixels);
    const source = new Uint8Array(this.memory, this.pixels, count * this.size);
    const pixels = new Uint8ClampedArray(4 * count * height * width).fill(255);
    for (let i = 0, at = 0; i < source.length; i += channels, at += 4) {
      for (let k = 0; k < 3; ++k) pixels[at + k] = source[i + (channels === 1 ? 0 : k)];
    }
    return {pixels, milliseconds};
  }
}
