// A rushes server from a page's side: one WebSocket for everything. No dependencies; docs/websocket.md tells the protocol.
//
//     import { Client } from "/v1/rushes.js";
//     const rushes = new Client(location.origin);
//     const { job } = await rushes.generate({ prompt: "a lake at dawn" });
//     for await (const view of rushes.updates(job.id)) console.log(view.phase, view.progress);
//
// The socket comes again by itself. What is followed goes on at its cursor: every event comes once, in order. A command
// that had no answer is sent again, which is safe: what begins jobs always carries an idempotency key.

const SUBPROTOCOL = "rushes.v1.json";
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
const WELCOME_MS = 10000; // for a server to answer hello
const MOST_FRAMES = 64; // that wait for a slow reader; then the subscription pauses, and goes on at its cursor
const FINAL = { 4400: "invalid_input", 4401: "unauthorised", 4403: "forbidden", 4409: "invalid_input", 4429: "rate_limited", 1009: "invalid_input" };

/** What the server's own process would have raised; `billed` says whether money was spent. */
export class RushesError extends Error {
  constructor(message, { code = "unavailable", billed = "no", retryable = false, field = "", errors = [], job_id = "", idempotency_key = "" } = {}) {
    super(message);
    this.name = "RushesError";
    this.code = code;
    this.billed = billed;
    this.retryable = retryable;
    this.field = field;
    this.errors = errors;
    this.jobId = job_id;
    this.idempotencyKey = idempotency_key;
  }
}

/** One server. Nothing is sent before the first method is called. */
export class Client {
  #url;
  #token;
  #reconnectForMs;
  #socket = null;
  #ready = false; // it has been welcomed
  #closed = false;
  #wasThere = false;
  #awaySince = null;
  #pauseMs = FIRST_PAUSE_MS;
  #retry = null; // timers
  #silence = null;
  #heartbeatMs = 30000;
  #epoch = "";
  #lastId = 0;
  #commands = new Map(); // id → {frame, resolve, reject}
  #subscriptions = new Map(); // id → Subscription

  /**
   * @param {string} url the server's address, as http://127.0.0.1:8484
   * @param {{token?: string, reconnectForMs?: number}} options `token`: a key, where the server has keys;
   *   `reconnectForMs`: how long a server that was there may be away before everything that waits for it fails
   */
  constructor(url, { token = "", reconnectForMs = 60000 } = {}) {
    this.#url = url.replace(/^http/, "ws").replace(/\/+$/, "") + "/v1/ws";
    this.#token = token;
    this.#reconnectForMs = reconnectForMs;
  }

  /** Which history the cursors are about; empty before the first answer. */
  get epoch() {
    return this.#epoch;
  }

  /** Begin a job. Gives {job, replayed}; `replayed`: its idempotency key had begun it before. */
  async generate(request, { idempotencyKey = crypto.randomUUID() } = {}) {
    const { job, replayed } = await this.#command("generate", request, idempotencyKey);
    return { job, replayed };
  }

  /**
   * Begin a job for each of 1 to 100 requests, or none where one is wrong. Gives {batch, replayed}; `replayed`: all of
   * them had begun before. The requests travel in one message, which the server's `ws_message_bytes` limits.
   */
  async submitBatch(requests, { idempotencyKey = crypto.randomUUID() } = {}) {
    const { batch, replayed } = await this.#command("submit_batch", { requests }, idempotencyKey);
    return { batch, replayed };
  }

  /** How the jobs of a batch are. */
  async batch(batch) {
    return (await this.#command("batch", { batch })).batch;
  }

  /** One job as it is now. */
  async show(job) {
    return (await this.#command("show", { job })).job;
  }

  /** Ask the provider now; within the job's minimum interval, what is known, with its age. */
  async poll(job) {
    return (await this.#command("poll", { job })).job;
  }

  /** Ask for a stop. `discard`: where nothing stops the job, drop its take. */
  async cancel(job, { discard = false } = {}) {
    return (await this.#command("cancel", { job, discard })).job;
  }

  /** Have a parked job fetch what was paid. `handle`: the provider's own id, where the server does not know it. */
  async collect(job, { handle = null } = {}) {
    return (await this.#command("collect", { job, handle })).job;
  }

  /**
   * The events of a filter {job?, jobs?, batch?, status?, provider?}, for ever: every one behind `from`, once, in order.
   *
   * @param {object} filter empty for all jobs
   * @param {object} options `from`: "now", "start" or a cursor {epoch, position}; `onCursor`: told of every new cursor
   *   once the events up to it were taken; `onUnreadable`: told of a damaged event, which is an error without it;
   *   `onSnapshots`: told how the jobs are when a subscription begins, and again after a break
   */
  async *follow(filter = {}, { from = "now", onCursor = null, onUnreadable = null, onSnapshots = null } = {}) {
    const subscription = this.#subscribe(filter, from);
    try {
      for (;;) {
        const frame = await subscription.next();
        if (frame.type === "error") {
          if (frame.code !== "unreadable" || !onUnreadable) throw errorOf(frame);
          onUnreadable(errorOf(frame));
        } else if (frame.type === "subscribed") {
          onSnapshots?.(frame.snapshot ? [frame.snapshot] : frame.snapshots);
        } else {
          yield* frame.items ?? [];
          onCursor?.({ epoch: subscription.epoch, position: frame.upto ?? frame.position });
        }
      }
    } finally {
      this.#unsubscribe(subscription);
    }
  }

  /** The job now, and again whenever it changed, until it has ended. */
  async *updates(job) {
    let version = 0;
    const subscription = this.#subscribe({ job }, "now");
    try {
      for (;;) {
        const frame = await subscription.next();
        if (frame.type === "error") throw errorOf(frame);
        const view = frame.type === "subscribed" ? frame.snapshot : frame.items?.length ? await this.show(job) : null;
        if (view && view.version > version) {
          version = view.version;
          yield view;
        }
        if (view && ["succeeded", "failed", "cancelled"].includes(view.status)) return;
      }
    } finally {
      this.#unsubscribe(subscription);
    }
  }

  /** Let go of the server. What waits for it fails; jobs go on. */
  close() {
    this.#closed = true;
    this.#fail(new RushesError("The client was closed."));
    clearTimeout(this.#retry);
    this.#drop();
  }

  // ── asking ──

  #command(name, args, idempotency_key) {
    const frame = { type: "command", id: this.#id(), name, args, ...(idempotency_key === undefined ? {} : { idempotency_key }) };
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new RushesError("The client was closed."));
      this.#commands.set(frame.id, { frame, resolve, reject });
      this.#say(frame);
    });
  }

  #subscribe(filter, from) {
    const subscription = new Subscription(filter, from, this.#epoch, (paused) => {
      if (!paused) this.#enter(subscription);
      else this.#leave(subscription);
    });
    if (this.#closed) subscription.fail(new RushesError("The client was closed."));
    else this.#enter(subscription);
    return subscription;
  }

  #enter(subscription) {
    subscription.id = this.#id(); // a new one each time: what is still under way for an old one is passed over
    this.#subscriptions.set(subscription.id, subscription);
    this.#say(subscription.frame());
  }

  #leave(subscription) {
    if (this.#subscriptions.delete(subscription.id) && this.#ready) this.#send({ type: "unsubscribe", id: subscription.id });
  }

  #unsubscribe(subscription) {
    subscription.end();
    this.#leave(subscription);
  }

  #id() {
    this.#lastId += 1;
    return `r${this.#lastId}`;
  }

  #say(frame) {
    if (this.#ready) this.#send(frame);
    else this.#connect(); // it is said once somebody is there
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  // ── the line ──

  #connect() {
    if (this.#socket || this.#closed) return;
    let socket;
    try {
      socket = this.#socket = new WebSocket(this.#url, SUBPROTOCOL);
    } catch (error) {
      return this.#fail(new RushesError(`${this.#url} is no address of a server: ${error.message}`, { code: "invalid_input" }));
    }
    this.#listen(socket, WELCOME_MS);
    socket.onopen = () => this.#send({ type: "hello", token: this.#token, client: "rushes.js" });
    socket.onmessage = (message) => this.#heard(socket, JSON.parse(message.data));
    socket.onclose = (event) => this.#lost(socket, event);
    socket.onerror = () => {}; // the close that follows says it
  }

  /** Give a line up that is silent for too long. */
  #listen(socket, withinMs) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(socket, { code: 1006, reason: "silence" }), withinMs);
  }

  #heard(socket, frame) {
    if (socket !== this.#socket) return; // given up
    if (frame.type === "welcome") this.#heartbeatMs = frame.heartbeat_s * 1000;
    this.#listen(socket, 2 * this.#heartbeatMs + 1000);
    if (frame.type === "welcome") return this.#welcomed(frame);
    const command = this.#commands.get(frame.id);
    if (command && (frame.type === "result" || frame.type === "error")) {
      this.#commands.delete(frame.id);
      if (frame.type === "result") command.resolve(frame);
      else command.reject(errorOf(frame));
      return;
    }
    const subscription = this.#subscriptions.get(frame.sub ?? frame.id);
    if (!subscription) return; // a pong, a heartbeat, or what a newer server adds
    if (frame.type === "resync") {
      const why = `This place in the log cannot be continued from (${frame.reason}): begin at "start" or "now".`;
      subscription.fail(new RushesError(why, { code: "conflict" }));
    } else if (["subscribed", "events", "caught_up", "error"].includes(frame.type)) {
      subscription.take(frame);
    }
  }

  #welcomed(frame) {
    this.#ready = true;
    this.#wasThere = true;
    this.#awaySince = null;
    this.#pauseMs = FIRST_PAUSE_MS;
    this.#epoch = frame.epoch;
    for (const subscription of this.#subscriptions.values()) {
      subscription.epoch ||= frame.epoch;
      this.#send(subscription.frame());
    }
    for (const { frame: command } of this.#commands.values()) this.#send(command);
  }

  #lost(socket, event) {
    if (socket !== this.#socket) return; // given up already
    this.#drop();
    const reason = event.reason || `close code ${event.code}`;
    if (event.code in FINAL) return this.#fail(new RushesError(`The server ended it: ${reason}.`, { code: FINAL[event.code] }));
    if (!this.#wasThere) return this.#fail(new RushesError(`No rushes server answers at ${this.#url}.`));
    this.#awaySince ??= Date.now();
    if (Date.now() - this.#awaySince > this.#reconnectForMs) {
      return this.#fail(new RushesError(`The line to the rushes server broke (${reason}): ask again.`));
    }
    if (!this.#subscriptions.size && !this.#commands.size) return; // nobody waits
    this.#retry = setTimeout(() => this.#connect(), this.#pauseMs * (0.5 + Math.random() / 2));
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
  }

  #drop() {
    clearTimeout(this.#silence);
    const socket = this.#socket;
    this.#socket = null;
    this.#ready = false;
    socket?.close();
  }

  /** Tell everybody who waits. What a lost command has cost is not known. */
  #fail(error) {
    const { code, message } = error;
    for (const { frame, reject } of this.#commands.values()) {
      const billed = ["generate", "submit_batch"].includes(frame.name) && this.#wasThere ? "unknown" : "no";
      reject(new RushesError(message, { code, billed, idempotency_key: frame.idempotency_key ?? "" }));
    }
    for (const subscription of this.#subscriptions.values()) subscription.fail(error);
    this.#commands.clear();
    this.#subscriptions.clear();
  }
}

/** What somebody follows: frames that wait to be taken, and where to go on. */
class Subscription {
  #waiting = [];
  #wake = null;
  #error = null;
  #pause;
  #paused = false;
  #cursor = null;

  constructor(filter, from, epoch, pause) {
    this.filter = filter;
    this.from = from;
    this.epoch = epoch;
    this.#pause = pause;
  }

  frame() {
    const from = this.#cursor === null ? this.from : { epoch: this.epoch, position: this.#cursor };
    return { type: "subscribe", ...this.filter, id: this.id, from };
  }

  /** A frame of the server's. Where too many wait, the server is told to stop, and asked again later. */
  take(frame) {
    const position = frame.upto ?? frame.position;
    if (position !== undefined) this.#cursor = position;
    this.#waiting.push(frame);
    this.#wake?.();
    if (this.#waiting.length >= MOST_FRAMES && !this.#paused) {
      this.#paused = true;
      this.#pause(true);
    }
  }

  async next() {
    while (!this.#waiting.length) {
      if (this.#error) throw this.#error;
      if (this.#paused) {
        this.#paused = false;
        this.#pause(false);
      }
      await new Promise((resolve) => (this.#wake = resolve));
    }
    return this.#waiting.shift();
  }

  fail(error) {
    this.#error = error;
    this.#wake?.();
  }

  end() {
    this.#waiting = [];
    this.#pause = () => {};
  }
}

function errorOf(frame) {
  return new RushesError(frame.message, frame);
}
