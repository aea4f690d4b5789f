// One mask at a time: five views, a rating, the next. Every rating is on the server's disk before the page goes on.

const WORDS = {
  image: "The photograph and the click",
  overlay: "The mask",
  zoom: "Close up",
  outline: "Its edge",
  cutout: "Cut out",
};
const NAME_KEY = "anymask.study.rater";
const at = (id) => document.getElementById(id);

let rater = "";
let views = [];
let tasks = [];
let ratings = {};
let place = 0;
let shownAt = 0;
let isBusy = false;

async function begin(name) {
  const answer = await fetch(`api/tasks?rater=${encodeURIComponent(name)}`);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  ({ views, tasks, ratings } = await answer.json());
  rater = name;
  localStorage.setItem(NAME_KEY, name);
  const open = tasks.findIndex((task) => !(task in ratings));
  place = open < 0 ? tasks.length : open;
  show();
}

function show() {
  const isDone = place >= tasks.length;
  const count = Object.keys(ratings).length;
  at("welcome").hidden = true;
  at("done").hidden = !isDone;
  for (const id of ["top", "views", "rate"]) at(id).hidden = isDone;
  at("summary").textContent = `You rated ${count} of ${tasks.length} masks. Everything is saved; you may close this page.`;
  if (isDone) return;
  at("bar").style.width = `${(100 * count) / tasks.length}%`;
  at("bar").parentElement.setAttribute("aria-valuenow", String(count));
  at("bar").parentElement.setAttribute("aria-valuemax", String(tasks.length));
  at("count").textContent = `${place + 1} of ${tasks.length}`;
  at("back").disabled = place === 0;
  at("forward").disabled = !(tasks[place] in ratings);
  at("views").replaceChildren(...views.map((view, index) => figure(tasks[place], view, index < 2)));
  for (const button of at("buttons").children) {
    button.setAttribute("aria-pressed", String(ratings[tasks[place]] === Number(button.textContent)));
  }
  shownAt = performance.now();
  if (place + 1 < tasks.length) for (const view of views) new Image().src = source(tasks[place + 1], view);
}

const source = (task, view) => `views/${task}/${view}.jpg`;

function figure(task, view, isWide) {
  const element = document.createElement("figure");
  element.classList.toggle("wide", isWide);
  const image = document.createElement("img");
  image.src = source(task, view);
  image.alt = WORDS[view] ?? view;
  image.onerror = () => say("a picture could not be loaded");
  const caption = document.createElement("figcaption");
  caption.textContent = image.alt;
  element.append(image, caption);
  element.onclick = () => enlarge(image.src);
  return element;
}

function enlarge(address) {
  at("zoom").firstElementChild.src = address;
  at("zoom").showModal();
}

async function rate(rating) {
  if (isBusy || place >= tasks.length) return;
  isBusy = true;
  const task = tasks[place];
  const seconds = Math.min(86400, (performance.now() - shownAt) / 1000);
  try {
    const answer = await fetch("api/ratings", {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ rater, task, rating, seconds }),
    });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    ratings[task] = rating;
    say("");
    move(1);
  } catch (error) {
    say(`not saved: ${error.message}; press the number again`);
  } finally {
    isBusy = false;
  }
}

function move(step) {
  place = Math.max(0, Math.min(tasks.length, place + step));
  show();
}

const say = (text) => { at("state").textContent = text; };

for (let rating = 1; rating <= 10; rating++) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = String(rating);
  button.title = rating === 10 ? "key 0" : `key ${rating}`;
  button.onclick = () => rate(rating);
  at("buttons").append(button);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target instanceof HTMLInputElement || at("guide").open) return;
  if (at("zoom").open && !/^\d$/.test(event.key)) return;
  if (at("rate").hidden) {
    if (!at("done").hidden && ["Backspace", "ArrowLeft"].includes(event.key)) move(-1);
    return;
  }
  if (/^\d$/.test(event.key)) { at("zoom").close(); rate(Number(event.key) || 10); }
  else if (event.key === "Backspace" || event.key === "ArrowLeft") move(-1);
  else if (event.key === "ArrowRight" && tasks[place] in ratings) move(1);
  else if (event.key === "?") at("guide").showModal();
  else return;
  event.preventDefault();
});

at("back").onclick = () => move(-1);
at("forward").onclick = () => move(1);
at("help").onclick = () => at("guide").showModal();
at("zoom").onclick = () => at("zoom").close();
at("review").onclick = () => { place = 0; show(); };
at("start").onsubmit = (event) => {
  event.preventDefault();
  const name = at("rater").value.trim();
  if (name) begin(name).catch((error) => { at("rater").setCustomValidity(error.message); at("rater").reportValidity(); });
};
at("rater").oninput = () => at("rater").setCustomValidity("");
at("rater").value = localStorage.getItem(NAME_KEY) ?? "";
at("welcome").hidden = false;
at("rater").focus();
