"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const say = (text) => { byId("viewer-says").textContent = text; };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const { volumes, colors } = read("viewer-volumes");
  let viewer = null;
  let turn = 0;

  async function library() {
    const packed = new Blob([bytes(byId("viewer-library").textContent.trim())]);
    const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    const address = URL.createObjectURL(new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" }));
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error("the viewer could not be started"));
      script.src = address;
      document.head.append(script);
    });
    URL.revokeObjectURL(address);
    return window.niivue;
  }

  async function show() {
    const mine = ++turn;
    const { NVImage } = window.niivue;
    const volume = volumes[Number(byId("viewer-case").value)];
    const asked = document.querySelector("input[name=viewer-image]:checked").value;
    const image = volume.files[asked] ? asked : "adversarial";
    const over = document.querySelector("input[name=viewer-over]:checked").value;
    const make = async (key, low, high) => {
      const made = await NVImage.loadFromBase64({ base64: volume.files[key], name: `${key}.nii.gz`, colormap: "gray" });
      if (high !== undefined) {
        [made.cal_min, made.cal_max] = [low, high];
      }
      return made;
    };
    const wanted = [];
    if (image === "difference") {
      wanted.push(await make("difference", -127, 127));
    } else {
      wanted.push(await make(image, 0, 255));
    }
    if (over !== "none" && volume.files[over]) {
      const map = await make(over);
      map.opacity = Number(byId("viewer-opacity").value) / 100;
      map.setColormapLabel(colors);
      wanted.push(map);
    }
    if (mine !== turn) {
      return;
    }
    while (viewer.volumes.length) {
      viewer.removeVolumeByIndex(0);
    }
    wanted.forEach((one) => viewer.addVolume(one));
    viewer.setSliceType(Number(byId("viewer-view").value));
    const largest = volume.largest.toPrecision(3);
    const kept = (image !== asked ? " The clean image was not kept for this case." : "")
      + (over !== "none" && !volume.files[over] ? " That prediction was not kept for this case." : "");
    say(image === "difference"
      ? `${volume.title}: adversarial minus clean; black is −${largest}, gray is no change, white is +${largest}, in the units of the image.${kept}`
      : `${volume.title}: ${image} image, gray from ${volume.window[0].toFixed(0)} to ${volume.window[1].toFixed(0)}.${kept}`);
  }

  const redraw = () => show().catch((error) => say(`The volume cannot be shown: ${error.message}.`));

  async function open() {
    byId("viewer-open").disabled = true;
    say("Starting the viewer …");
    try {
      if (!document.createElement("canvas").getContext("webgl2")) {
        throw new Error("this browser has no WebGL 2");
      }
      const { Niivue } = await library();
      byId("viewer-stage").hidden = false;
      viewer = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: false, dragAndDropEnabled: false,
        multiplanarForceRender: true, multiplanarLayout: 2, crosshairWidth: 0.5,
        isRadiologicalConvention: true, logLevel: "error" });
      await viewer.attachToCanvas(byId("viewer-canvas"));
      await show();
      byId("viewer-open").hidden = true;
      for (const control of document.querySelectorAll("#viewer-stage select, #viewer-stage input")) {
        control.addEventListener("change", redraw);
      }
    } catch (error) {
      byId("viewer-stage").hidden = true;
      byId("viewer-open").disabled = false;
      say(`The viewer cannot be shown: ${error.message}. The pictures above show the same cases.`);
    }
  }

  byId("viewer-open").addEventListener("click", open);
  if (location.hash === "#viewer-opened") {
    open();
  }
})();
