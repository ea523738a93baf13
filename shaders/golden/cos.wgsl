// Printed from `cos` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}

// The high word of a * b, from 16-bit halves.
fn sl_umulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let middle = ah * bl + ((al * bl) >> 16u);
    let carry = ((middle & 0xffffu) + al * bh) >> 16u;
    return ah * bh + (middle >> 16u) + carry;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

// a * b + c, rounded once.
fn sl_fma(a: f32, b: f32, c: f32) -> f32 {
    return sl_hold(fma(a, b, c));
}

fn sl_sin_near(x0: f32) -> f32 {
    let v1 = bitcast<u32>(x0);
    let v2 = abs(x0);
    let v4 = v2 * 0.63661975f;
    let v5 = round(v4);
    let v6 = u32(v5);
    let v7 = v6 << 30u;
    let v8 = v1 ^ v7;
    let v10 = v8 & 0x80000000u;
    let v12 = v6 & 0x1u;
    let v14 = v12 == 0x0u;
    let v18 = sl_fma(v5, -1.5707963f, v2);
    let v19 = sl_fma(v5, -7.5497894e-8f, v18);
    let v20 = sl_fma(v5, -5.3903025e-15f, v19);
    let v21 = v20 * v20;
    let v24 = fma(v21, -0.00019495051f, 0.008332011f);
    let v26 = fma(v21, v24, -0.16666652f);
    let v27 = v21 * v26;
    let v28 = fma(v20, v27, v20);
    let v31 = fma(v21, 2.4411222e-5f, -0.0013887126f);
    let v33 = fma(v21, v31, 0.04166664f);
    let v34 = v21 * v33;
    let v37 = fma(v21, -0.5f, 1.0f);
    let v38 = fma(v21, v34, v37);
    let v39 = select(v38, v28, v14);
    let v40 = bitcast<u32>(v39);
    let v41 = v10 ^ v40;
    let v42 = bitcast<f32>(v41);
    return v42;
}

fn sl_sin_far(x0: f32) -> f32 {
    let v2 = bitcast<u32>(x0);
    let v3 = abs(x0);
    let v4 = bitcast<u32>(v3);
    let v6 = v4 & 0x7fffffu;
    let v8 = v6 | 0x800000u;
    let v9 = v4 >> 23u;
    let v11 = v9 - 0x90u;
    let v13 = v11 & 0x7u;
    let v15 = v13 + 0x7fu;
    let v16 = v15 << 23u;
    let v17 = bitcast<f32>(v16);
    let v18 = u32(v17);
    let v19 = v8 * v18;
    let v21 = v11 & 0x18u;
    let v22 = 0x7fu + v21;
    let v23 = v22 << 23u;
    let v24 = bitcast<f32>(v23);
    let v25 = u32(v24);
    let v26 = v11 >> 5u;
    let v28 = v26 == 0x3u;
    let v31 = v26 == 0x2u;
    let v34 = v26 == 0x1u;
    let v37 = select(0x6e4e4415u, 0x29fc2757u, v34);
    let v38 = select(v37, 0xd1f534ddu, v31);
    let v39 = select(v38, 0xc0db6295u, v28);
    let v40 = v25 * v39;
    let v42 = select(0x29fc2757u, 0xd1f534ddu, v34);
    let v43 = select(v42, 0xc0db6295u, v31);
    let v44 = select(v43, 0x993c4390u, v28);
    let v45 = sl_umulhi(v25, v44);
    let v46 = v40 | v45;
    let v47 = v19 * v46;
    let v48 = v25 * v44;
    let v50 = select(0xd1f534ddu, 0xc0db6295u, v34);
    let v51 = select(v50, 0x993c4390u, v31);
    let v52 = select(v51, 0x41fe5163u, v28);
    let v53 = sl_umulhi(v25, v52);
    let v54 = v48 | v53;
    let v55 = sl_umulhi(v19, v54);
    let v56 = v47 | v55;
    let v57 = v47 + v55;
    let v59 = v57 ^ 0xffffffffu;
    let v60 = v56 & v59;
    let v61 = v47 & v55;
    let v62 = v60 | v61;
    let v63 = v62 >> 31u;
    let v65 = select(0xa2f983u, 0x6e4e4415u, v34);
    let v66 = select(v65, 0x29fc2757u, v31);
    let v67 = select(v66, 0xd1f534ddu, v28);
    let v68 = v25 * v67;
    let v69 = sl_umulhi(v25, v39);
    let v70 = v68 | v69;
    let v71 = v19 * v70;
    let v72 = sl_umulhi(v19, v46);
    let v73 = v71 + v72;
    let v74 = v63 + v73;
    let v76 = v74 + 0x20000000u;
    let v77 = v76 >> 30u;
    let v78 = v77 << 30u;
    let v79 = v2 ^ v78;
    let v80 = 0x80000000u & v79;
    let v82 = 0x1u & v77;
    let v83 = 0x0u == v82;
    let v85 = bitcast<f32>(sl_word(0x7f800000u));
    let v86 = v3 < v85;
    let v87 = v74 << 2u;
    let v88 = v57 >> 30u;
    let v89 = v87 | v88;
    let v90 = v89 & 0x80000000u;
    let v91 = v90 == 0x0u;
    let v92 = select(0xffffffffu, 0x0u, v91);
    let v93 = v89 ^ v92;
    let v94 = v93 >> 8u;
    let v95 = f32(v94);
    let v97 = v95 * 5.9604645e-8f;
    let v99 = v57 << 2u;
    let v100 = v99 ^ v92;
    let v102 = v100 & 0xffffu;
    let v103 = f32(v102);
    let v106 = v93 & 0xffu;
    let v107 = v106 << 16u;
    let v108 = v100 >> 16u;
    let v109 = v107 | v108;
    let v110 = f32(v109);
    let v112 = v110 * 3.5527137e-15f;
    let v113 = fma(v103, 5.421011e-20f, v112);
    let v115 = v97 * -4.371139e-8f;
    let v116 = fma(v113, 1.5707964f, v115);
    let v117 = fma(v97, 1.5707964f, v116);
    let v118 = bitcast<u32>(v117);
    let v119 = v90 ^ v118;
    let v120 = bitcast<f32>(v119);
    let v121 = sl_hold(v3) - v3;
    let v122 = select(v121, v120, v86);
    let v123 = v122 * v122;
    let v126 = fma(v123, -0.00019495051f, 0.008332011f);
    let v128 = fma(v123, v126, -0.16666652f);
    let v129 = v123 * v128;
    let v130 = fma(v122, v129, v122);
    let v133 = fma(v123, 2.4411222e-5f, -0.0013887126f);
    let v135 = fma(v123, v133, 0.04166664f);
    let v136 = v123 * v135;
    let v139 = fma(v123, -0.5f, 1.0f);
    let v140 = fma(v123, v136, v139);
    let v141 = select(v140, v130, v83);
    let v142 = bitcast<u32>(v141);
    let v143 = v80 ^ v142;
    let v144 = bitcast<f32>(v143);
    return v144;
}

fn sl_sin(x: f32) -> f32 {
    if (abs(x) <= 131072.0f) {
        return sl_sin_near(x);
    }
    return sl_sin_far(x);
}

fn sl_cos_near(x0: f32) -> f32 {
    let v1 = abs(x0);
    let v3 = v1 * 0.63661975f;
    let v4 = round(v3);
    let v5 = u32(v4);
    let v7 = v5 + 0x1u;
    let v8 = v7 << 30u;
    let v10 = v8 & 0x80000000u;
    let v11 = 0x1u & v7;
    let v13 = v11 == 0x0u;
    let v17 = sl_fma(v4, -1.5707963f, v1);
    let v18 = sl_fma(v4, -7.5497894e-8f, v17);
    let v19 = sl_fma(v4, -5.3903025e-15f, v18);
    let v20 = v19 * v19;
    let v23 = fma(v20, -0.00019495051f, 0.008332011f);
    let v25 = fma(v20, v23, -0.16666652f);
    let v26 = v20 * v25;
    let v27 = fma(v19, v26, v19);
    let v30 = fma(v20, 2.4411222e-5f, -0.0013887126f);
    let v32 = fma(v20, v30, 0.04166664f);
    let v33 = v20 * v32;
    let v36 = fma(v20, -0.5f, 1.0f);
    let v37 = fma(v20, v33, v36);
    let v38 = select(v37, v27, v13);
    let v39 = bitcast<u32>(v38);
    let v40 = v10 ^ v39;
    let v41 = bitcast<f32>(v40);
    return v41;
}

fn sl_cos_far(x0: f32) -> f32 {
    let v3 = abs(x0);
    let v4 = bitcast<u32>(v3);
    let v6 = v4 & 0x7fffffu;
    let v8 = v6 | 0x800000u;
    let v9 = v4 >> 23u;
    let v11 = v9 - 0x90u;
    let v13 = v11 & 0x7u;
    let v15 = v13 + 0x7fu;
    let v16 = v15 << 23u;
    let v17 = bitcast<f32>(v16);
    let v18 = u32(v17);
    let v19 = v8 * v18;
    let v21 = v11 & 0x18u;
    let v22 = 0x7fu + v21;
    let v23 = v22 << 23u;
    let v24 = bitcast<f32>(v23);
    let v25 = u32(v24);
    let v26 = v11 >> 5u;
    let v28 = v26 == 0x3u;
    let v31 = v26 == 0x2u;
    let v33 = v26 == 0x1u;
    let v36 = select(0x6e4e4415u, 0x29fc2757u, v33);
    let v37 = select(v36, 0xd1f534ddu, v31);
    let v38 = select(v37, 0xc0db6295u, v28);
    let v39 = v25 * v38;
    let v41 = select(0x29fc2757u, 0xd1f534ddu, v33);
    let v42 = select(v41, 0xc0db6295u, v31);
    let v43 = select(v42, 0x993c4390u, v28);
    let v44 = sl_umulhi(v25, v43);
    let v45 = v39 | v44;
    let v46 = v19 * v45;
    let v47 = v25 * v43;
    let v49 = select(0xd1f534ddu, 0xc0db6295u, v33);
    let v50 = select(v49, 0x993c4390u, v31);
    let v51 = select(v50, 0x41fe5163u, v28);
    let v52 = sl_umulhi(v25, v51);
    let v53 = v47 | v52;
    let v54 = sl_umulhi(v19, v53);
    let v55 = v46 | v54;
    let v56 = v46 + v54;
    let v58 = v56 ^ 0xffffffffu;
    let v59 = v55 & v58;
    let v60 = v46 & v54;
    let v61 = v59 | v60;
    let v62 = v61 >> 31u;
    let v64 = select(0xa2f983u, 0x6e4e4415u, v33);
    let v65 = select(v64, 0x29fc2757u, v31);
    let v66 = select(v65, 0xd1f534ddu, v28);
    let v67 = v25 * v66;
    let v68 = sl_umulhi(v25, v38);
    let v69 = v67 | v68;
    let v70 = v19 * v69;
    let v71 = sl_umulhi(v19, v45);
    let v72 = v70 + v71;
    let v73 = v62 + v72;
    let v75 = v73 + 0x20000000u;
    let v76 = v75 >> 30u;
    let v77 = 0x1u + v76;
    let v78 = v77 << 30u;
    let v79 = 0x80000000u & v78;
    let v81 = 0x1u & v77;
    let v82 = 0x0u == v81;
    let v84 = bitcast<f32>(sl_word(0x7f800000u));
    let v85 = v3 < v84;
    let v86 = v73 << 2u;
    let v87 = v56 >> 30u;
    let v88 = v86 | v87;
    let v89 = v88 & 0x80000000u;
    let v90 = v89 == 0x0u;
    let v91 = select(0xffffffffu, 0x0u, v90);
    let v92 = v88 ^ v91;
    let v93 = v92 >> 8u;
    let v94 = f32(v93);
    let v96 = v94 * 5.9604645e-8f;
    let v98 = v56 << 2u;
    let v99 = v98 ^ v91;
    let v101 = v99 & 0xffffu;
    let v102 = f32(v101);
    let v105 = v92 & 0xffu;
    let v106 = v105 << 16u;
    let v107 = v99 >> 16u;
    let v108 = v106 | v107;
    let v109 = f32(v108);
    let v111 = v109 * 3.5527137e-15f;
    let v112 = fma(v102, 5.421011e-20f, v111);
    let v114 = v96 * -4.371139e-8f;
    let v115 = fma(v112, 1.5707964f, v114);
    let v116 = fma(v96, 1.5707964f, v115);
    let v117 = bitcast<u32>(v116);
    let v118 = v89 ^ v117;
    let v119 = bitcast<f32>(v118);
    let v120 = sl_hold(v3) - v3;
    let v121 = select(v120, v119, v85);
    let v122 = v121 * v121;
    let v125 = fma(v122, -0.00019495051f, 0.008332011f);
    let v127 = fma(v122, v125, -0.16666652f);
    let v128 = v122 * v127;
    let v129 = fma(v121, v128, v121);
    let v132 = fma(v122, 2.4411222e-5f, -0.0013887126f);
    let v134 = fma(v122, v132, 0.04166664f);
    let v135 = v122 * v134;
    let v138 = fma(v122, -0.5f, 1.0f);
    let v139 = fma(v122, v135, v138);
    let v140 = select(v139, v129, v82);
    let v141 = bitcast<u32>(v140);
    let v142 = v79 ^ v141;
    let v143 = bitcast<f32>(v142);
    return v143;
}

fn sl_cos(x: f32) -> f32 {
    if (abs(x) <= 131072.0f) {
        return sl_cos_near(x);
    }
    return sl_cos_far(x);
}

fn def_cos(x0: f32, index: u32) -> f32 {
    let v1 = sl_cos(x0);
    return v1;
}

fn def_cos_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sin(x0);
    let v2 = -v1;
    return v2;
}
