// Reads safetensors files and half-precision numbers.

export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export interface TensorFile {
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly metadata: Readonly<Record<string, string>>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** The F16 and F32 tensors of a file as 32-bit floats. Throws where the file is anything else. */
export function readSafetensors(buffer: ArrayBuffer): TensorFile {
  if (buffer.byteLength < 8) throw new Error("not a safetensors file: too short");
  const view = new DataView(buffer);
  const headerLength = view.getUint32(0, true);
  if (view.getUint32(4, true) !== 0 || 8 + headerLength > buffer.byteLength) {
    throw new Error("not a safetensors file: its header is longer than the file");
  }
  const header: Record<string, unknown> = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerLength)));
  const tensors: Record<string, Tensor> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: [from, to] } = value as Entry;
    const count = shape.reduce((product, side) => product * side, 1);
    // A copy, for a tensor need not start at a multiple of its item size.
    const bytes = buffer.slice(8 + headerLength + from, 8 + headerLength + to);
    if (dtype === "F32") tensors[name] = { shape, values: new Float32Array(bytes) };
    else if (dtype === "F16") tensors[name] = { shape, values: halvesToFloats(new Uint16Array(bytes)) };
    else throw new Error(`tensor ${name} is ${dtype}; allowed: F16, F32`);
    if (tensors[name].values.length !== count) throw new Error(`tensor ${name} has ${tensors[name].values.length} values for shape ${shape}`);
  }
  return { tensors, metadata: (header.__metadata__ as Record<string, string> | undefined) ?? {} };
}

let table: Float32Array | null = null;

/** All 65,536 half-precision numbers: looking up is three times quicker than taking each apart. */
function halfTable(): Float32Array {
  if (table) return table;
  table = new Float32Array(1 << 16);
  for (let half = 0; half < table.length; half++) {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) table[half] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) table[half] = sign * fraction * 2 ** -24;
    else table[half] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
}

export function halvesToFloats(halves: Uint16Array): Float32Array {
  const numbers = halfTable();
  const floats = new Float32Array(halves.length);
  for (let index = 0; index < halves.length; index++) floats[index] = numbers[halves[index]];
  return floats;
}

/** The nearest half-precision numbers (ties to even); what is too large becomes the largest one. */
export function floatsToHalves(floats: Float32Array): Uint16Array {
  const halves = new Uint16Array(floats.length);
  for (let index = 0; index < floats.length; index++) {
    const value = floats[index];
    const size = Math.min(Math.abs(value), 65504);
    const exponent = size < 2 ** -14 ? -14 : Math.min(Math.floor(Math.log2(size)), 15);
    const steps = roundToEven(size / 2 ** (exponent - 10));
    // Below 2^-14 the exponent's bits are zero; above, the leading 1 of `steps` adds the one that is missing.
    const bits = exponent === -14 ? steps : ((exponent + 14) << 10) + steps;
    halves[index] = (value < 0 ? 0x8000 : 0) | bits;
  }
  return halves;
}

function roundToEven(value: number): number {
  const lower = Math.floor(value);
  const rest = value - lower;
  return rest > 0.5 || (rest === 0.5 && lower % 2 === 1) ? lower + 1 : lower;
}
