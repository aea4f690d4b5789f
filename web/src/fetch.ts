// Calls of the server. A server that is away for a while (restarted, laptop closed) is waited for.

/** The server's own "no", with the code and the body of its answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly body: Record<string, unknown>,
  ) {
    super(message);
  }
}

/** Nobody answered, or the server is too busy: the same call may be tried again. */
export class Unreachable extends Error {}

/** One call. Throws `Unreachable` or `Refused`; 202 is an answer. */
export async function call(url: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Unreachable("the server does not answer");
  }
  if (response.ok) return response;
  if ([429, 502, 503, 504].includes(response.status)) throw new Unreachable(`the server is busy (${response.status})`);
  let body: Record<string, unknown> = {};
  try {
    body = await response.json();
  } catch {
    // An answer that is not JSON says no more than its status.
  }
  throw new Refused(response.status, String(body.code ?? response.status), String(body.detail ?? response.statusText), body);
}

/** One call that waits while the server still computes (202) or is away. Throws `Refused`. */
export async function fetchReady(url: string, init: RequestInit): Promise<Response> {
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await call(url, init);
      if (response.status !== 202) return response;
      await sleep(1000 * Number(response.headers.get("Retry-After") ?? 0.25));
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      await sleep(backoff(attempt));
    }
  }
}

/** Milliseconds to wait before try number `attempt`: 0.3 s, then longer, at most 5 s. */
export function backoff(attempt: number): number {
  return Math.min(300 * 1.6 ** attempt, 5000);
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
